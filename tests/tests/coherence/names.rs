//! Paths that one mount looks at all the time, so that the kernel keeps them for a while, and that are changed then.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use dfs_tests::cluster::{Cluster, Shape};
use dfs_tests::{sys, wait};

use super::{number, scenario};

/// A name that says the same for longer than this is kept.
const STEADY: Duration = Duration::from_millis(25);
const PATHS: [&str; 4] = ["file", "sub/inner", "link", "absent"];

/// What a path leads to: the inode, and the size.
fn look(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|meta| (meta.ino(), meta.len()))
}

fn look_at_all(directory: &Path) -> Vec<Option<(u64, u64)>> {
    PATHS.iter().map(|path| look(&directory.join(path))).collect()
}

/// Looks for so long that the kernel keeps the names.
fn look_often(directory: &Path) {
    look_at_all(directory);
    wait::pause(STEADY);
    look_at_all(directory);
}

fn fill(directory: &Path) {
    fs::create_dir_all(directory.join("sub")).unwrap();
    fs::write(directory.join("file"), "1").unwrap();
    fs::write(directory.join("sub/inner"), "22").unwrap();
    symlink("file", directory.join("link")).unwrap();
}

/// Changes where a path leads.
type Change = fn(&Path);

const CHANGES: [(&str, Change); 9] = [
    ("rename, and a new file", |dir| {
        fs::rename(dir.join("file"), dir.join("file.1")).unwrap();
        fs::write(dir.join("file"), "new one").unwrap();
    }),
    ("rename", |dir| fs::rename(dir.join("file"), dir.join("file.1")).unwrap()),
    ("unlink", |dir| fs::remove_file(dir.join("file")).unwrap()),
    ("rename over it", |dir| {
        fs::write(dir.join("temporary"), "another").unwrap();
        fs::rename(dir.join("temporary"), dir.join("file")).unwrap();
    }),
    ("rename of the directory", |dir| fs::rename(dir.join("sub"), dir.join("moved")).unwrap()),
    ("another directory", |dir| {
        fs::create_dir(dir.join("new")).unwrap();
        fs::write(dir.join("new/inner"), "333").unwrap();
        sys::renameat2(&dir.join("new"), &dir.join("sub"), libc::RENAME_EXCHANGE).unwrap();
    }),
    ("another target", |dir| {
        symlink("sub/inner", dir.join("temporary")).unwrap();
        fs::rename(dir.join("temporary"), dir.join("link")).unwrap();
    }),
    ("create", |dir| fs::write(dir.join("absent"), "there").unwrap()),
    ("link", |dir| fs::hard_link(dir.join("file"), dir.join("absent")).unwrap()),
];

#[test]
fn a_path_that_a_mount_looks_at_all_the_time_leads_at_once_where_the_other_one_has_changed_it() {
    let fs = scenario("names");
    for round in 0..number("DFS_NAMES_ROUNDS", 3) {
        for (what, change) in CHANGES {
            // A new one each time: where others change things the kernel keeps nothing.
            let [ours, theirs] = ["a", "b"].map(|mount| fs.dir(mount).join(format!("{round} {what}")));
            fill(&ours);
            look_often(&theirs);
            let began = wait::now();
            change(&ours);
            let (shown, took) = (look_at_all(&theirs), began.elapsed());
            assert_eq!(shown, look_at_all(&ours), "round {round}: {what}");
            assert!(took < Duration::from_secs(1), "round {round}: {what} took {took:?}");
        }
    }
}

/// The kernel keeps what it knew of a name when the name is changed by a rename.
#[test]
fn a_name_that_a_mount_has_renamed_itself_leads_at_once_where_the_other_one_has_changed_it() {
    let fs = scenario("renamed");
    for round in 0..number("DFS_NAMES_ROUNDS", 3) * 5 {
        for (way, to) in ["other", "sub/other"].into_iter().enumerate() {
            let [ours, theirs] = ["a", "b"].map(|mount| fs.dir(mount).join(format!("{round} {way}")));
            fill(&ours);
            look_often(&theirs);
            look(&theirs.join(to));
            fs::rename(theirs.join("file"), theirs.join(to)).unwrap();
            fs::remove_file(ours.join(to)).unwrap();
            assert_eq!(look(&theirs.join(to)), None, "round {round}: {to}");
            fs::write(ours.join(to), "another").unwrap();
            assert_eq!(look(&theirs.join(to)), look(&ours.join(to)), "round {round}: {to}");
        }
    }
}

#[test]
fn a_path_that_is_looked_at_all_the_time_asks_the_mount_for_nothing() {
    let cluster = Cluster::start(Shape { metaservers: 1, chunkservers: 1, copies: 1, ..Shape::default() });
    fill(&cluster.mount("a").join("volume/one/two"));
    let directory = cluster.mountpoint("a").join("volume/one/two");
    let paths = ["file", "sub/inner", "absent"].map(|path| directory.join(path));
    let look_all = || assert_eq!(paths.each_ref().map(|path| look(path).is_some()), [true, true, false]);
    wait::until("a thousand looks that ask nobody", Duration::from_secs(30), || {
        look_often(&directory);
        cluster.pause("a");
        let (done, is_done) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (0..1000).for_each(|_| look_all());
                done.send(()).unwrap();
            });
            let asked_nobody = is_done.recv_timeout(Duration::from_millis(300));
            cluster.resume("a");
            asked_nobody.ok()
        })
    });
}
