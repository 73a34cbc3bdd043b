//! Reads the federation's map from any metaserver, and has the federation group change it.

use std::time::Duration;

use anyhow::Context as _;
use dfs_net::env::Env;
use dfs_net::rpc::leader::LeaderChannel;
use dfs_net::rpc::{Expected, Identity, Role, grpc};
use dfs_net::services::federation_client::FederationClient;
use dfs_proto::convert::{federate_to_wire, federated_from_wire, map_from_wire};
use dfs_proto::federation::{Federate, FederationMap};
use dfs_proto::ids::ClusterId;
use dfs_proto::wire;
use futures::future::join_all;
use tokio::time::timeout;

/// The time for one round of questions, connecting included. There are two rounds: the metaservers that are configured, and
/// those that they name.
pub const ASK_DEADLINE: Duration = Duration::from_millis(1200);

/// The time for a change; an election fits into it.
const CHANGE_DEADLINE: Duration = Duration::from_secs(8);
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// The newest map that one of these metaservers knows; `None` if none of them answers, or they are one cluster on its own.
pub async fn newest_map(env: &Env, addresses: &[String]) -> Option<FederationMap> {
    let maps = join_all(addresses.iter().map(|address| ask(env, address))).await;
    maps.into_iter().flatten().map(|(map, _)| map).max_by_key(|map| map.version)
}

/// The gRPC addresses of the group that keeps the map, as the first of these metaservers that answers names them.
pub async fn members(env: &Env, addresses: &[String]) -> Vec<String> {
    let answers = join_all(addresses.iter().map(|address| ask(env, address))).await;
    answers.into_iter().flatten().map(|(_, members)| members).next().unwrap_or_default()
}

async fn ask(env: &Env, address: &str) -> Option<(FederationMap, Vec<String>)> {
    let own = Identity { role: Role::Admin, id: 0, cluster: ClusterId::UNKNOWN };
    let expected = Expected { role: Role::Metaserver, ..own };
    let asked = async {
        let channel = grpc::connect(env, address, &own, &expected, ASK_DEADLINE).await.ok()?;
        let mut client = FederationClient::new(channel).max_decoding_message_size(grpc::MESSAGE_LEN_MAX);
        let reply = client.get_map(wire::GetMapRequest::default()).await.ok()?;
        let mut reply = reply.into_inner();
        let members = std::mem::take(&mut reply.members);
        Some((map_from_wire(reply).ok()??, members))
    };
    timeout(ASK_DEADLINE, asked).await.ok()?
}

/// Has the federation group change the map. Its members are among `metaservers`.
pub async fn change(env: &Env, metaservers: Vec<String>, change: Federate) -> anyhow::Result<()> {
    let channel = LeaderChannel::anonymous(env.clone(), Role::Admin, metaservers, CONNECT_DEADLINE);
    let request = federate_to_wire(&change);
    let answer = channel.call(CHANGE_DEADLINE, |channel| {
        let request = request.clone();
        async move {
            let reply = FederationClient::new(channel).federate(request).await?;
            Ok(federated_from_wire(reply.into_inner()))
        }
    });
    answer.await.context("ask the federation group")?;
    Ok(())
}
