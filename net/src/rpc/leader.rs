//! Finds the leader of a group of metaservers, and calls it.
//!
//! A call is first sent to the member that answered last as leader. A member that does not lead may name the leader, which is
//! asked next; a member that does not answer is skipped, and is the last one that later calls try: so calls with short deadlines, too,
//! reach each member in turn. This repeats until the deadline. So a call may be sent several times; changes have request ids, which
//! make that safe (P8.1).

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tonic::Status;

use super::connection::SILENCE_MAX;
use super::push::PushHandler;
use super::unary::{self, UnaryChannel};
use super::{Expected, Identity, Role, SharedIdentity};
use crate::env::Env;
use dfs_proto::error::MetaError;
use dfs_proto::ids::ClusterId;
use dfs_proto::planted::{self, Bug};

/// A member is skipped when connecting takes longer than this, or when it gives no sign of life for so long (`unary`, U4). This
/// bounds the stall after a leader has stopped without closing its connections, to little more than the election takes. A leader
/// that is only slow, because a disk is, gives signs of life and has until the call's deadline. It says itself when it has lost
/// its quorum.
const ATTEMPT_MAX: Duration = SILENCE_MAX;
/// The pause after all members were asked and none led. An election takes about a second.
const ROUND_PAUSE: Duration = Duration::from_millis(50);
/// How many addresses are remembered: the configured ones and those that members have named.
const ADDRESSES_MAX: usize = 32;

/// The metaservers of one group, as one process sees them. Clones share the connections.
#[derive(Clone)]
pub struct LeaderChannel(Arc<Inner>);

struct Inner {
    env: Env,
    own: SharedIdentity,
    connect_deadline: Duration,
    state: Mutex<State>,
}

struct State {
    /// The addresses in the order in which they are tried. The member that answered last as leader is the first, those that did not answer
    /// are the last.
    addresses: Vec<String>,
    channels: HashMap<String, UnaryChannel>,
    /// The handler that new connections get.
    pushes: Option<Arc<dyn PushHandler>>,
}

/// The last member of a call that timed out. The others name it as leader until they have elected another one. Without this, the
/// call would follow them and time out there again.
#[derive(Default)]
struct PassedOver(Option<(String, Instant)>);

impl PassedOver {
    fn add(&mut self, address: String) {
        self.0 = Some((address, Instant::now() + ATTEMPT_MAX));
    }

    fn holds(&self, address: &str) -> bool {
        self.0.as_ref().is_some_and(|(silent, until)| silent == address && Instant::now() < *until)
    }

    /// The addresses without that member's; but all of them if no other is left.
    fn without(&self, addresses: Vec<String>) -> Vec<String> {
        let others: Vec<String> = addresses.iter().filter(|address| !self.holds(address)).cloned().collect();
        if others.is_empty() { addresses } else { others }
    }
}

impl LeaderChannel {
    /// `addresses` are gRPC addresses of some metaservers, at least one.
    pub fn new(
        env: Env,
        own: SharedIdentity,
        addresses: Vec<String>,
        connect_deadline: Duration,
    ) -> LeaderChannel {
        let state = Mutex::new(State { addresses, channels: HashMap::new(), pushes: None });
        LeaderChannel(Arc::new(Inner { env, own, connect_deadline, state }))
    }

    /// For a process without an id of its own.
    pub fn anonymous(
        env: Env,
        role: Role,
        addresses: Vec<String>,
        connect_deadline: Duration,
    ) -> LeaderChannel {
        let own = SharedIdentity::new(Identity { role, id: 0, cluster: ClusterId::UNKNOWN });
        LeaderChannel::new(env, own, addresses, connect_deadline)
    }

    /// From now on, connections name this cluster, and one to a metaserver of another cluster is refused.
    pub fn bind_cluster(&self, cluster: ClusterId) {
        self.0.own.set(Identity { cluster, ..self.0.own.get() });
    }

    /// Sets the handler for messages that members send of their own accord, for all connections that are made after this call.
    pub fn handle_pushes(&self, handler: Arc<dyn PushHandler>) {
        self.with(|state| state.pushes = Some(handler));
    }

    /// The addresses in the order in which they are tried, the presumed leader's first.
    pub fn addresses(&self) -> Vec<String> {
        self.with(|state| state.addresses.clone())
    }

    /// Takes over the addresses that the cluster has given for its members. Those that were known before are tried after them.
    pub fn learn(&self, members: &[String]) {
        self.with(|state| {
            let known = std::mem::take(&mut state.addresses);
            for address in members.iter().chain(&known) {
                if !address.is_empty() && !state.addresses.contains(address) {
                    state.addresses.push(address.clone());
                }
            }
            state.addresses.truncate(ADDRESSES_MAX);
        });
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    fn prefer(&self, address: &str) {
        self.with(|state| {
            state.addresses.retain(|a| a != address);
            state.addresses.insert(0, address.to_owned());
            state.addresses.truncate(ADDRESSES_MAX);
        });
    }

    fn try_last(&self, address: &str) {
        self.with(|state| {
            if let Some(at) = state.addresses.iter().position(|known| known == address) {
                state.addresses[at..].rotate_left(1);
            }
        });
    }

    /// The connection to one member. It is made if there is none.
    pub async fn channel(&self, address: &str, deadline: Instant) -> Result<UnaryChannel, String> {
        if let Some(channel) =
            self.with(|state| state.channels.get(address).filter(|c| c.is_alive()).cloned())
        {
            return Ok(channel);
        }
        let own = self.0.own.get();
        let expected = Expected { role: Role::Metaserver, id: 0, cluster: own.cluster };
        let left = deadline.saturating_duration_since(Instant::now()).min(self.0.connect_deadline);
        let pushes = self.with(|state| state.pushes.clone());
        let channel = unary::connect_with_pushes(&self.0.env, address, &own, &expected, left, pushes).await?;
        self.with(|state| state.channels.insert(address.to_owned(), channel.clone()));
        Ok(channel)
    }

    /// Forgets a connection that has failed, so that the next call makes a new one.
    pub fn drop_channel(&self, address: &str) {
        self.with(|state| state.channels.remove(address));
    }

    /// Runs `call` at the leader until it answers or `deadline` has passed. `call` may run several times: after `NotLeader`,
    /// `Unavailable` and `Undecided` it is tried again. Every other answer is final.
    pub async fn call<T, F>(
        &self,
        deadline: Duration,
        call: impl Fn(UnaryChannel) -> F,
    ) -> Result<T, MetaError>
    where
        F: Future<Output = Result<Result<T, MetaError>, Status>>,
    {
        self.call_while_working(deadline, deadline, call).await
    }

    /// The same, with two deadlines: after `search`, no further try begins; after `deadline`, the last try times out. So a caller
    /// can wait longer for a leader that works on the call than for a leader to be found.
    pub async fn call_while_working<T, F>(
        &self,
        search: Duration,
        deadline: Duration,
        call: impl Fn(UnaryChannel) -> F,
    ) -> Result<T, MetaError>
    where
        F: Future<Output = Result<Result<T, MetaError>, Status>>,
    {
        let (search, deadline) = (Instant::now() + search, Instant::now() + deadline);
        let mut hint: Option<String> = None;
        let mut passed_over = PassedOver::default();
        let unavailable = |what: String| MetaError::Unavailable { what };
        let mut last = unavailable("no metaserver is configured".to_owned());
        loop {
            let addresses = match hint.take() {
                Some(address) => vec![address],
                None => passed_over.without(self.addresses()),
            };
            let is_round = addresses.len() > 1;
            for address in addresses {
                match self.attempt(&address, deadline, &call).await {
                    Ok(Ok(value)) => {
                        self.prefer(&address);
                        return Ok(value);
                    }
                    Ok(Err(MetaError::NotLeader { leader })) => {
                        last = unavailable(format!("{address} is not the leader"));
                        hint = leader.filter(|l| *l != address && !passed_over.holds(l));
                        if hint.is_some() {
                            break;
                        }
                    }
                    Ok(Err(MetaError::Unavailable { what })) => {
                        last = unavailable(format!("{address}: {what}"))
                    }
                    Ok(Err(undecided @ MetaError::Undecided { .. })) => {
                        self.prefer(&address); // only the leader says so
                        last = undecided;
                        break;
                    }
                    Ok(Err(error)) => return Err(error),
                    // The deadline has cut this try short, so the leader's earlier answer counts.
                    Err(_) if matches!(last, MetaError::Undecided { .. }) && Instant::now() >= deadline => {}
                    Err(what) => {
                        last = unavailable(format!("{address}: {what}"));
                        self.try_last(&address);
                        passed_over.add(address);
                    }
                }
                if Instant::now() >= search {
                    return Err(last);
                }
            }
            if hint.is_none() || !is_round {
                sleep(ROUND_PAUSE).await;
            }
            if Instant::now() >= search {
                return Err(last);
            }
        }
    }

    async fn attempt<T, F>(
        &self,
        address: &str,
        deadline: Instant,
        call: &impl Fn(UnaryChannel) -> F,
    ) -> Result<Result<T, MetaError>, String>
    where
        F: Future<Output = Result<Result<T, MetaError>, Status>>,
    {
        let silent = deadline.min(Instant::now() + ATTEMPT_MAX);
        let connected = timeout_at(silent, self.channel(address, silent)).await;
        let channel = connected.unwrap_or_else(|_| Err("no connection in time".to_owned()))?;
        let patience = if planted::has(Bug::SlownessTakenForSilence) { silent } else { deadline };
        let answer = timeout_at(patience, call(channel)).await;
        match answer {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(status)) => {
                self.drop_channel(address);
                Err(status.message().to_owned())
            }
            Err(_) => Err("no answer in time".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_did_not_answer_is_asked_again_after_a_while_or_when_there_is_nobody_else() {
        let [a, b] = ["a:1", "b:1"].map(str::to_owned);
        let mut passed_over = PassedOver::default();
        passed_over.add(a.clone());
        assert!(passed_over.holds(&a) && !passed_over.holds(&b));
        assert_eq!(passed_over.without(vec![a.clone(), b.clone()]), std::slice::from_ref(&b));
        assert_eq!(passed_over.without(vec![a.clone()]), std::slice::from_ref(&a));
        tokio::time::advance(ATTEMPT_MAX).await;
        assert!(!passed_over.holds(&a));
        assert_eq!(passed_over.without(vec![a.clone(), b.clone()]), [a, b]);
    }

    /// Calls with short deadlines tried the same two silent members again and again, and never the leader beside them.
    #[test]
    fn who_did_not_answer_is_the_last_one_that_later_calls_try() {
        let addresses = ["a:1", "b:1", "c:1"].map(str::to_owned);
        let env = Env::real();
        let channel = LeaderChannel::anonymous(env, Role::Client, addresses.to_vec(), Duration::from_secs(1));
        channel.try_last("a:1");
        assert_eq!(channel.addresses(), ["b:1", "c:1", "a:1"]);
        channel.try_last("elsewhere:1");
        channel.try_last("b:1");
        assert_eq!(channel.addresses(), ["c:1", "a:1", "b:1"]);
        channel.prefer("b:1");
        assert_eq!(channel.addresses(), ["b:1", "c:1", "a:1"]);
    }
}
