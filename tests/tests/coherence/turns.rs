//! Random operations on one file, through several descriptors of two mounts, one after the other, compared with a model.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::{number, scenario};

const LEN_MAX: u64 = 200_000;
const RECENT_MAX: usize = 40;
/// Through the page cache, and for appends past it.
const FLAGS: [i32; 2] = [0, libc::O_APPEND];

struct Game<'s> {
    paths: [&'s Path; 2],
    /// Of both mounts, by [`FLAGS`].
    files: [[File; 2]; 2],
    model: Vec<u8>,
    rng: SmallRng,
    /// What was done last, for the message of a failure.
    recent: VecDeque<String>,
}

fn open(path: &Path, flags: i32) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(flags & !libc::O_APPEND).append(flags & libc::O_APPEND != 0);
    options.create(true).open(path).unwrap()
}

impl Game<'_> {
    fn bytes(&mut self) -> Vec<u8> {
        let len = match self.rng.random_range(0..10) {
            0 => self.rng.random_range(0..30_000),
            1..4 => self.rng.random_range(0..5000),
            _ => self.rng.random_range(0..100),
        };
        let byte: u8 = self.rng.random();
        (0..len).map(|n: u32| byte.wrapping_add(n as u8)).collect()
    }

    /// A place in the file, or a little behind it.
    fn place(&mut self) -> u64 {
        self.rng.random_range(0..=(self.model.len() as u64 + 3000).min(LEN_MAX))
    }

    fn lay(&mut self, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        if !bytes.is_empty() && self.model.len() < end {
            self.model.resize(end, 0);
        }
        if !bytes.is_empty() {
            self.model[at..end].copy_from_slice(bytes);
        }
    }

    fn note(&mut self, what: String) {
        if self.recent.len() >= RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(what);
    }

    fn play(&mut self, step: u64) {
        let (mount, kind) = (self.rng.random_range(0..2), self.rng.random_range(0..2));
        let file = self.files[mount][kind].try_clone().unwrap();
        self.note(format!("{step}: mount {mount}, {}:", ["pages", "append"][kind]));
        match self.rng.random_range(0..100) {
            0..25 => self.write(&file, kind),
            25..31 => {
                let len = self.place();
                self.note(format!("cut at {len}"));
                file.set_len(len).unwrap();
                self.model.resize(len as usize, 0);
            }
            31..34 => {
                self.note("fsync".to_owned());
                file.sync_data().unwrap();
            }
            34..40 => {
                self.note("close and open".to_owned());
                self.files[mount][kind] = open(self.paths[mount], FLAGS[kind]);
            }
            40..60 => {
                let shown = file.metadata().unwrap().len();
                self.note(format!("stat {shown}"));
                assert_eq!(shown, self.model.len() as u64, "the size; {:#?}", self.recent);
            }
            _ => self.read(&file),
        }
    }

    fn write(&mut self, file: &File, kind: usize) {
        let bytes = self.bytes();
        if FLAGS[kind] & libc::O_APPEND != 0 {
            if self.model.len() as u64 + bytes.len() as u64 <= LEN_MAX {
                self.note(format!("append {} at {}", bytes.len(), self.model.len()));
                (&*file).write_all(&bytes).unwrap();
                self.lay(self.model.len(), &bytes);
            }
            return;
        }
        let at = self.place();
        self.note(format!("write {} at {at}", bytes.len()));
        file.write_all_at(&bytes, at).unwrap();
        self.lay(at as usize, &bytes);
    }

    fn read(&mut self, file: &File) {
        let at = self.place();
        let mut seen = vec![0; self.rng.random_range(1..20_000)];
        let mut len = 0;
        loop {
            let more = file.read_at(&mut seen[len..], at + len as u64).unwrap();
            len += more;
            if more == 0 || len == seen.len() {
                break;
            }
        }
        self.note(format!("read at {at}, up to {}: {len}", seen.len()));
        let from = (at as usize).min(self.model.len());
        let meant = &self.model[from..(from + seen.len()).min(self.model.len())];
        let wrong = seen[..len].iter().zip(meant).position(|(seen, meant)| seen != meant);
        assert_eq!(wrong.map(|n| at + n as u64), None, "the first wrong byte; {:#?}", self.recent);
        assert_eq!(len, meant.len(), "bytes read at {at}; {:#?}", self.recent);
    }
}

#[test]
fn two_mounts_that_take_turns_on_one_file_never_differ_from_a_model() {
    let fs = scenario("turns");
    let first = number("DFS_TURNS_SEED", 1);
    for seed in first..first + number("DFS_TURNS_SEEDS", 3) {
        let paths = ["a", "b"].map(|mount| fs.dir(mount).join(format!("file{seed}")));
        let paths = [paths[0].as_path(), paths[1].as_path()];
        let files = paths.map(|path| FLAGS.map(|flags| open(path, flags)));
        let mut game = Game {
            paths,
            files,
            model: Vec::new(),
            rng: SmallRng::seed_from_u64(seed),
            recent: VecDeque::new(),
        };
        println!("seed {seed}");
        (0..number("DFS_TURNS_STEPS", 1500)).for_each(|step| game.play(step));
    }
}
