//! One mount changes something in a directory of which the other one has looked at everything just before.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{
    FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, chown, symlink,
};
use std::path::Path;

use dfs_tests::sys;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::{number, scenario};

/// What a mount shows of one name: its attributes, and what it leads to.
type Seen = BTreeMap<String, (Vec<i128>, Vec<u8>)>;

/// Everything that the directory shows, names that are not there among it.
fn look(directory: &Path) -> Seen {
    let names = ["file", "other", "new", "link", "directory", "directory/inner", "pipe", "moved"];
    let listed: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let mut seen = Seen::new();
    for name in names {
        let path = directory.join(name);
        let is_listed = listed.iter().any(|listed| *listed == *name);
        let shown = match fs::symlink_metadata(&path) {
            Ok(meta) => (attributes(&meta), content(&path, &meta)),
            Err(error) => (vec![i128::from(error.raw_os_error().unwrap())], Vec::new()),
        };
        seen.insert(format!("{name}, listed: {is_listed}"), shown);
    }
    seen
}

fn attributes(meta: &fs::Metadata) -> Vec<i128> {
    let times = [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()];
    let numbers = [meta.ino(), meta.len(), meta.nlink(), meta.rdev()].map(i128::from);
    let owners = [meta.mode(), meta.uid(), meta.gid()].map(i128::from);
    numbers.into_iter().chain(owners).chain(times.map(i128::from)).collect()
}

fn content(path: &Path, meta: &fs::Metadata) -> Vec<u8> {
    let kind = meta.file_type();
    match () {
        () if kind.is_file() => fs::read(path).unwrap(),
        () if kind.is_symlink() => fs::read_link(path).unwrap().into_os_string().into_encoded_bytes(),
        () => Vec::new(),
    }
}

/// One operation that changes something in the directory. `open`: a file that was opened before, `file`, and stays open.
type Operation = fn(directory: &Path, open: &File, rng: &mut SmallRng);

const OPERATIONS: [(&str, Operation); 27] = [
    ("write through a descriptor that stays open", |_, open, rng| {
        open.write_all_at(&[rng.random(); 100], rng.random_range(0..5000)).unwrap();
    }),
    ("write behind the end", |_, open, rng| {
        let end = open.metadata().unwrap().len();
        open.write_all_at(&[rng.random(); 10], end + rng.random_range(0..3000)).unwrap();
    }),
    ("append", |directory, _, rng| {
        let mut file = OpenOptions::new().append(true).open(directory.join("file")).unwrap();
        file.write_all(&[rng.random(); 10]).unwrap();
    }),
    ("append directly", |directory, _, rng| {
        let mut direct = OpenOptions::new();
        direct.append(true).custom_flags(libc::O_SYNC);
        direct.open(directory.join("file")).unwrap().write_all(&[rng.random(); 10]).unwrap();
    }),
    ("cut", |_, open, rng| open.set_len(rng.random_range(0..3000)).unwrap()),
    ("make longer", |_, open, rng| open.set_len(rng.random_range(3000..9000)).unwrap()),
    ("open with O_TRUNC and write", |directory, _, rng| {
        fs::write(directory.join("file"), vec![rng.random(); rng.random_range(0..4000)]).unwrap();
    }),
    ("write other bytes and set the time of before", |directory, open, rng| {
        let before = open.metadata().unwrap();
        open.write_all_at(&[rng.random(); 1], 0).unwrap();
        let time = (before.mtime(), before.mtime_nsec());
        sys::utimens(&directory.join("file"), time, time).unwrap();
    }),
    ("fsync", |_, open, rng| {
        open.write_all_at(&[rng.random(); 20], 0).unwrap();
        open.sync_all().unwrap();
    }),
    ("chmod", |directory, _, rng| {
        let mode = 0o600 | rng.random_range(0..0o100);
        fs::set_permissions(directory.join("file"), fs::Permissions::from_mode(mode)).unwrap();
    }),
    ("chown", |directory, _, rng| {
        chown(directory.join("file"), Some(rng.random_range(1..9)), Some(rng.random_range(1..9))).unwrap();
    }),
    ("utimens", |directory, _, rng| {
        let time = (rng.random_range(0..1 << 30), rng.random_range(0..1_000_000_000));
        sys::utimens(&directory.join("file"), time, time).unwrap();
    }),
    ("create", |directory, _, _| {
        let mut new = OpenOptions::new();
        new.write(true).create(true).truncate(false).open(directory.join("new")).unwrap();
    }),
    ("create and write, unclosed for a moment", |directory, _, rng| {
        let mut new = File::create(directory.join("new")).unwrap();
        new.write_all(&[rng.random(); 300]).unwrap();
        new.seek(SeekFrom::Start(0)).unwrap();
    }),
    ("mkdir", |directory, _, _| drop(fs::create_dir(directory.join("directory")))),
    ("create in the directory", |directory, _, _| {
        let _ = fs::create_dir(directory.join("directory"));
        File::create(directory.join("directory/inner")).unwrap();
    }),
    ("unlink in the directory", |directory, _, _| drop(fs::remove_file(directory.join("directory/inner")))),
    ("rmdir", |directory, _, _| drop(fs::remove_dir(directory.join("directory")))),
    ("symlink", |directory, _, rng| {
        let _ = fs::remove_file(directory.join("link"));
        symlink(format!("to{}", rng.random_range(0..100)), directory.join("link")).unwrap();
    }),
    ("mknod", |directory, _, _| drop(sys::mknod(&directory.join("pipe"), libc::S_IFIFO | 0o600, 0))),
    ("unlink", |directory, _, _| {
        let _ = fs::remove_file(directory.join("pipe"));
        let _ = fs::remove_file(directory.join("new"));
    }),
    ("link", |directory, _, _| drop(fs::hard_link(directory.join("file"), directory.join("other")))),
    ("unlink of one of two names", |directory, _, _| drop(fs::remove_file(directory.join("other")))),
    ("rename", |directory, _, _| {
        let _ = fs::rename(directory.join("new"), directory.join("moved"));
    }),
    ("rename back over it", |directory, _, rng| {
        fs::write(directory.join("new"), [rng.random(); 9]).unwrap();
        let _ = fs::rename(directory.join("moved"), directory.join("new"));
    }),
    ("rename onto a new name", |directory, _, rng| {
        fs::write(directory.join("new"), [rng.random(); 5]).unwrap();
        fs::rename(directory.join("new"), directory.join("moved")).unwrap();
    }),
    ("exchange", |directory, _, _| {
        let _ = sys::renameat2(&directory.join("new"), &directory.join("moved"), libc::RENAME_EXCHANGE);
    }),
];

#[test]
fn whatever_one_mount_changes_the_other_shows_at_once_though_it_has_looked_before() {
    let fs = scenario("changes");
    let directories = [fs.dir("a"), fs.dir("b")];
    fs::write(directories[0].join("file"), [7; 2000]).unwrap();
    let open =
        |directory: &Path| OpenOptions::new().read(true).write(true).open(directory.join("file")).unwrap();
    let files = directories.each_ref().map(|directory| open(directory));
    let mut rng = SmallRng::seed_from_u64(number("DFS_COHERENCE_SEED", 1));
    for round in 0..number("DFS_COHERENCE_ROUNDS", 20) {
        for (name, operation) in OPERATIONS {
            let by = usize::from(rng.random_bool(0.5));
            let (ours, theirs) = (&directories[by], &directories[1 - by]);
            look(theirs);
            operation(ours, &files[by], &mut rng);
            let meant = rng.random_bool(0.5).then(|| look(ours)); // what a mount shows is what it has committed later
            let shown = look(theirs);
            let meant = meant.unwrap_or_else(|| look(ours));
            assert_eq!(shown, meant, "round {round}: {name}");
            let through_descriptors = files.each_ref().map(|file| attributes(&file.metadata().unwrap()));
            assert_eq!(
                through_descriptors[0], through_descriptors[1],
                "round {round}: {name}, by descriptor"
            );
        }
    }
}
