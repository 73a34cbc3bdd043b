use super::*;
use crate::kv::rocksdb::{RocksHome, RocksOptions};
use crate::kv::{KvHome as _, Kv};
use tokio::time::Instant;

fn run(kv: &dyn Kv, commands: Vec<Command>) {
    for part in commands.chunks(64) {
        let batch = {
            let base = kv.snapshot();
            let mut txn = Txn::new(&*base);
            for c in part {
                match apply(c, Timestamp { seconds: 1, nanos: 0 }, &mut txn) {
                    Reply::Changed(Err(e)) => panic!("{e} {c:?}"),
                    Reply::Refused(e) => panic!("{e}"),
                    _ => {}
                }
            }
            txn.into_batch()
        };
        kv.write(batch).unwrap();
    }
}

#[tokio::test]
async fn measure() {
    let dir = tempfile::tempdir().unwrap();
    let home = RocksHome::new(dir.path(), RocksOptions::default()).unwrap();
    let kv = home.create("x").unwrap();
    run(&*kv, vec![init_command(), Command::OpenSession { nonce: SessionNonce(1), client: String::new() }]);
    let mut n = 0u64;
    let mut req = |change: Change| {
        n += 1;
        Command::Change {
            request: ChangeRequest { cluster: CLUSTER, session: SessionId(1), request: RequestId(n), answered_below: RequestId(n.saturating_sub(16)), caller: Caller::ROOT, change },
            placement: Vec::new(),
        }
    };
    let total = 400_000u64;
    let step = 50_000;
    for s in (0..total).step_by(step as usize) {
        let t = Instant::now();
        let cs = (s..s + step).map(|i| req(create(InodeId::ROOT, &format!("file-number-{i}"), 0o644, NewInode::File))).collect();
        let made = t.elapsed();
        let t = Instant::now();
        run(&*kv, cs);
        println!("create {s}: {:?}/op (made {made:?})", t.elapsed() / step as u32);
    }
    kv.flush().await.unwrap();
    for hit in [true, false] {
        let t = Instant::now();
        for i in 0..50_000u64 {
            let name = format!("{}-number-{}", if hit { "file" } else { "none" }, i * 7919 % total);
            let v = kv.snapshot();
            let r = read::lookup(&*v, &Caller::ROOT, InodeId::ROOT, name.as_bytes());
            assert_eq!(r.is_ok(), hit);
        }
        println!("lookup hit={hit}: {:?}/op", t.elapsed() / 50_000);
    }
    for s in (0..total).step_by(100_000) {
        let t = Instant::now();
        let cs = (s..s + 100_000).map(|i| req(Change::Unlink { parent: InodeId::ROOT, name: name(&format!("file-number-{i}")) })).collect();
        run(&*kv, cs);
        println!("unlink {s}: {:?}/op", t.elapsed() / 100_000);
    }
    let t = Instant::now();
    let cs = (0..total / 1000).map(|i| req(Change::ReleaseOrphans { inodes: (i * 1000 + 2..i * 1000 + 1002).map(InodeId).collect() })).collect();
    run(&*kv, cs);
    println!("release: {:?}/op", t.elapsed() / total as u32);
    let t = Instant::now();
    assert!(!read::has_work_for_reaper(&*kv.snapshot()));
    println!("has work: {:?}", t.elapsed());
    let t = Instant::now();
    let r = ReadRequest_();
    println!("{:?}", read::answer(&*kv.snapshot(), &r).map(|_| ()));
    println!("readdir of emptied: {:?}", t.elapsed());
}
#[allow(non_snake_case)]
fn ReadRequest_() -> dfs_proto::meta::ReadRequest {
    dfs_proto::meta::ReadRequest { cluster: CLUSTER, session: SessionId(1), caller: Caller::ROOT, read: dfs_proto::meta::Read::ReadDir { inode: InodeId::ROOT, cookie: 0, limit: 10, plus: false } }
}
