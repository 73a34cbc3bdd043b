//! Puts servers and clients on hosts of the simulation.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dfs_chunkserver::machine::{FixedMachine, MachineLoad};
use dfs_chunkserver::workers::Workers;
use dfs_client::inode::Client;
use dfs_client::{ClientConfig, ClientError};
use dfs_metaserver::Storage;
use dfs_metaserver::config::{BootstrapMember, Settings};
use dfs_metaserver::raft::Consensus;
use dfs_net::env::{Env, Rng};

use super::disks::{Disks, GroupDisks};
use super::layout::{
    CHUNKSERVER_HOSTS, FRAMES_PORT, GRPC_PORT, METASERVER_HOSTS, METASERVERS, MORTAL, MORTAL_HOST,
    SHARER_HOSTS, SHARERS, VOLUMES, VOLUMES_HOST, WALKER_HOSTS, members_of, metaserver_addresses,
    metaserver_name,
};
use super::plan::{LEASE_TERM, OVER_INTERVAL, Plan};
use super::shared::{Shared, env};
use super::sharing::{self, Sharer};
use super::{clocks, directory, missing, mortal, volumes};
use crate::walk::Walker;

const LOG_SEGMENT_KIB: u64 = 4;
/// One start of a metaserver in so many is tried without a file of its directory first.
const MISSING_ONE_IN: u64 = 4;

pub(super) fn add_metaserver(sim: &mut turmoil::Sim<'_>, shared: &Arc<Shared>, disks: &Disks, index: usize) {
    let (own, seat, shared) =
        (disks.clusters[index].clone(), disks.seats.get(&index).cloned(), shared.clone());
    let (layout, cluster) = (disks.layout, index / METASERVERS);
    let starts = Arc::new(AtomicUsize::new(0));
    sim.host(metaserver_name(index).as_str(), move || {
        let (own, seat) = (own.clone(), seat.clone());
        let cluster_disks = own.clone();
        let storage = move || Storage {
            cluster: cluster_disks.storage(),
            federation: seat.as_ref().map(GroupDisks::storage),
        };
        let start = starts.fetch_add(1, Ordering::SeqCst) as u64;
        let env = env(&shared, METASERVER_HOSTS + index as u64, start);
        let members = |indexes: Vec<usize>| -> Vec<BootstrapMember> {
            let numbered = metaserver_addresses(indexes).into_iter().zip(1..);
            numbered.map(|(address, id)| BootstrapMember { id, address }).collect()
        };
        let seats = layout.seats();
        let settings = Settings {
            id: Some((index % METASERVERS) as u64 + 1),
            cluster: Some(format!("cluster{}", cluster + 1)),
            data: Some("simulated".into()),
            listen: Some(format!("0.0.0.0:{GRPC_PORT}")),
            advertise: Some(metaserver_addresses([index]).concat()),
            http: Some(String::new()),
            bootstrap: Some(members(members_of(cluster).collect())),
            federation_members: layout.has_federation().then(|| members(seats.clone())),
            federation_id: seats.iter().position(|seat| *seat == index).map(|at| at as u64 + 1),
            // Small, so that snapshots are taken, sent and installed within a run.
            snapshot_every_logs: Some(100),
            // A few entries each, so that purges leave files and new segments begin in them.
            log_segment_kib: Some(LOG_SEGMENT_KIB),
            // Longer than any fault keeps a client from its leader: those that walk lose no session.
            session_expiry_ms: Some(45_000),
            lease_term_ms: Some(LEASE_TERM.as_millis() as u64),
            ..Settings::default()
        };
        let shared = shared.clone();
        async move {
            let config = dfs_metaserver::config::Config::validate(settings)?;
            let is_tried = start > 0 && env.rng.below(MISSING_ONE_IN) == 0;
            if is_tried && missing::is_refused(config.clone(), env.clone(), storage(), &own).await {
                shared.totals().starts_refused += 1;
            }
            let running = dfs_metaserver::start(config, env, storage()).await?;
            watch_leaders(running.consensus(), &shared, cluster, layout.members(cluster));
            if let Some(member) = running.federation() {
                watch_leaders(member, &shared, layout.clusters, seats);
            }
            running.run_until(Box::pin(std::future::pending())).await?;
            Ok(())
        }
    });
}

/// Notes who leads a group; `members` are its numbers' indexes. No term has two leaders.
fn watch_leaders(consensus: &Consensus, shared: &Arc<Shared>, group: usize, members: Vec<usize>) {
    let (mut leadership, shared) = (consensus.leadership(), shared.clone());
    tokio::spawn(async move {
        while leadership.changed().await.is_ok() {
            let now = leadership.borrow_and_update().clone();
            let Some(leader) = now.leader else { continue };
            let index = members[leader.0 as usize - 1];
            let before = shared.leaders().insert((group, now.term), index);
            if before.is_none() {
                shared.leader_changed();
            }
            let is_one = before.is_none_or(|before| before == index);
            assert!(is_one, "two leaders of group {group} in term {}", now.term);
        }
    });
}

pub(super) fn add_chunkserver(sim: &mut turmoil::Sim<'_>, shared: &Arc<Shared>, disks: &Disks, index: usize) {
    let (disk, shared) = (disks.chunks[index].clone(), shared.clone());
    let starts = Arc::new(AtomicUsize::new(0));
    let cluster = index / disks.layout.chunkservers;
    let name = format!("c{}", index + 1);
    sim.host(name.as_str(), move || {
        let start = starts.fetch_add(1, Ordering::SeqCst) as u64;
        let env = env(&shared, CHUNKSERVER_HOSTS + index as u64, start);
        let mut config = dfs_chunkserver::config::Config::default();
        config.federation.metaservers = metaserver_addresses(members_of(cluster));
        config.chunkserver = dfs_chunkserver::config::Section {
            data: "/data".into(),
            listen: "0.0.0.0:7100".to_owned(),
            advertise: format!("c{}:7100", index + 1),
            frames_listen: format!("0.0.0.0:{FRAMES_PORT}"),
            frames_advertise: format!("c{}:{FRAMES_PORT}", index + 1),
            http: String::new(),
            ..config.chunkserver
        };
        let machine = FixedMachine(MachineLoad { cpu_percent: 10, ..MachineLoad::default() });
        let seams = dfs_chunkserver::Seams {
            disk: Arc::new(disk.clone()),
            machine: Arc::new(Mutex::new(machine)),
            io: Workers::inline(),
            syncs: Workers::inline(),
            descriptors: 20_000,
        };
        async move {
            let (_stop, stopped) = tokio::sync::watch::channel(false);
            dfs_chunkserver::start(config, env, seams).await?.run(stopped).await?;
            Ok(())
        }
    });
}

fn client_config(name: &str, plan: Plan) -> ClientConfig {
    ClientConfig {
        metaservers: metaserver_addresses(0..plan.layout.metaservers()),
        name: name.to_owned(),
        metadata_timeout: plan.patience(),
        data_timeout: plan.patience(),
        ..ClientConfig::default()
    }
}

/// Of a client that is silent again and again, and has to wait for others in the gaps between.
fn patient(config: ClientConfig) -> ClientConfig {
    ClientConfig {
        metadata_timeout: config.metadata_timeout * 2,
        data_timeout: config.data_timeout * 2,
        ..config
    }
}

pub(super) fn add_walker(sim: &mut turmoil::Sim<'_>, shared: &Arc<Shared>, plan: Plan, index: usize) {
    let shared = shared.clone();
    let name = format!("w{}", index + 1);
    sim.client(name.clone().as_str(), async move {
        let env = env(&shared, WALKER_HOSTS + index as u64, 0);
        let rng = env.rng.clone();
        shared.wait_whole().await;
        let client = Client::connect(client_config(&name, plan), env.clone()).await?;
        let peer = Client::connect(client_config("peer", plan), env.clone()).await?;
        let directory = directory::in_root(&client, plan.layout, &name).await;
        let mut walker = Walker::start(client.clone(), peer.clone(), rng.clone(), &name, directory);
        let sharer = Sharer {
            number: 1 + index as u64,
            name: name.clone(),
            shared: shared.clone(),
            rng: env.rng.clone(),
            client: client.clone(),
            locker: peer.clone(),
            is_mortal: false,
            is_watched: false,
            directory: directory::in_root(&client, plan.layout, sharing::DIRECTORY).await,
        };
        let walking = async {
            walk(&mut walker, plan, &shared, index as u64, &rng).await;
            shared.walking.fetch_sub(1, Ordering::SeqCst);
        };
        futures::future::join(walking, sharing::live(sharer.clone())).await;
        while !shared.is_over.load(Ordering::SeqCst) {
            tokio::time::sleep(OVER_INTERVAL).await;
        }
        let reader = Client::connect(client_config("reader", plan), env).await?;
        walker.compare_as(&reader).await;
        clocks::check(&client, directory).await;
        if index == 0 {
            let promises = shared.promises().clone();
            mortal::check(&reader, plan.layout, &promises).await;
            sharing::check(Sharer { client: reader.clone(), ..sharer }).await;
            shared.totals().looks = shared.history().looks();
            shared.totals().fetches = shared.history().fetches();
        }
        let lost = client.shutdown(Duration::from_secs(60)).await;
        assert!(lost.is_empty(), "{name}: not written at shutdown: {lost:?}");
        peer.shutdown(Duration::from_secs(60)).await;
        reader.shutdown(Duration::from_secs(60)).await;
        Ok(())
    });
}

/// All that a walker walks.
async fn walk(walker: &mut Walker, plan: Plan, shared: &Shared, index: u64, rng: &Rng) {
    while walker.walked.operations < plan.operations_each {
        let operation = walker.step().await;
        shared.note(index, operation);
        tokio::time::sleep(Duration::from_micros(rng.below(plan.pause_max.as_micros() as u64))).await;
    }
    walker.finish().await;
    let mut totals = shared.totals();
    totals.operations += walker.walked.operations;
    totals.bytes_written += walker.walked.bytes_written;
    let stall = walker.walked.longest_stall.as_millis() as u64;
    totals.longest_stall_ms = totals.longest_stall_ms.max(stall);
}

/// A client that only shares, and may be silent for longer than a term.
pub(super) fn add_sharer(sim: &mut turmoil::Sim<'_>, shared: &Arc<Shared>, plan: Plan, index: usize) {
    let shared = shared.clone();
    sim.client(SHARERS[index], async move {
        let env = env(&shared, SHARER_HOSTS + index as u64, 0);
        shared.wait_whole().await;
        let config = patient(client_config(SHARERS[index], plan));
        let sharer = mortal_sharer(config, 10 + index as u64, &shared, env, plan).await?;
        let client = sharer.client.clone();
        sharing::live_watched(Sharer { is_watched: true, ..sharer }).await;
        client.shutdown(Duration::from_secs(60)).await; // what its session has lost is lost
        Ok(())
    });
}

async fn mortal_sharer(
    config: ClientConfig,
    number: u64,
    shared: &Arc<Shared>,
    env: Env,
    plan: Plan,
) -> Result<Sharer, ClientError> {
    let (rng, name) = (env.rng.clone(), config.name.clone());
    let client = Client::connect(config, env).await?;
    Ok(Sharer {
        number,
        name,
        shared: shared.clone(),
        rng,
        locker: client.clone(),
        is_mortal: true,
        is_watched: false,
        directory: directory::in_root(&client, plan.layout, sharing::DIRECTORY).await,
        client,
    })
}

pub(super) fn add_volumes(sim: &mut turmoil::Sim<'_>, shared: &Arc<Shared>, plan: Plan) {
    let shared = shared.clone();
    sim.client(VOLUMES, async move {
        let env = env(&shared, VOLUMES_HOST, 0);
        volumes::join(&env, plan.layout).await;
        shared.is_whole.store(true, Ordering::SeqCst);
        let client = Client::connect(client_config(VOLUMES, plan), env.clone()).await?;
        let is_over = || shared.walking.load(Ordering::SeqCst) == 0;
        let made = volumes::live(&client, &env.rng, is_over).await;
        shared.totals().volume_changes = made.changes;
        while !shared.is_over.load(Ordering::SeqCst) {
            tokio::time::sleep(OVER_INTERVAL).await;
        }
        let reader = Client::connect(client_config("reader", plan), env).await?;
        made.check(reader.clone()).await;
        for client in [client, reader] {
            let lost = client.shutdown(Duration::from_secs(60)).await;
            assert!(lost.is_empty(), "{VOLUMES}: not written at shutdown: {lost:?}");
        }
        Ok(())
    });
}

pub(super) fn add_mortal(sim: &mut turmoil::Sim<'_>, shared: &Arc<Shared>, plan: Plan) {
    let shared = shared.clone();
    let lives = Arc::new(AtomicUsize::new(0));
    sim.host(MORTAL, move || {
        let (shared, life) = (shared.clone(), lives.fetch_add(1, Ordering::SeqCst));
        let env = env(&shared, MORTAL_HOST, life as u64);
        async move {
            let rng = env.rng.clone();
            shared.wait_whole().await;
            let client = Client::connect(client_config(MORTAL, plan), env.clone()).await?;
            let config = client_config("x1, sharing", plan);
            let sharer = mortal_sharer(config, 100 + life as u64, &shared, env, plan).await?;
            let is_over = || shared.walking.load(Ordering::SeqCst) == 0;
            let directory = mortal::directory(&client, plan.layout).await;
            let promise = |promise| shared.promises().push(promise);
            let living = mortal::live(client, directory, rng, life, is_over, promise);
            futures::future::join(living, sharing::live(sharer)).await;
            std::future::pending().await
        }
    });
}
