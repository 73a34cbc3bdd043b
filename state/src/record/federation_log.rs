//! What one entry of the federation group's Raft log carries: the same as one of a cluster's (`log`), but for the commands. Their
//! layout has not changed since the first release. The times are not used.

use serde::{Deserialize, Serialize};

use super::log::{self, EntryError, VERSION, VERSION_BEFORE_BIRTH, VERSION_OF_ONE_CLOCK};
use super::stored::{Broken, Stored, stored_enum};
use super::value::{ClusterEntry, RootCopy, StateTime, Timestamp};
use crate::federation::command;

/// What each command begins with. When both groups had the commands of one type, these were the variant of this number.
const NUMBER: u8 = 20;

#[derive(Serialize, Deserialize)]
struct Numbered {
    number: u8,
    command: FederationCommand,
}

impl Stored<command::Command> for Numbered {
    fn store(live: &command::Command) -> Numbered {
        Numbered { number: NUMBER, command: FederationCommand::store(live) }
    }

    fn live(self) -> Result<command::Command, Broken> {
        match self.number {
            NUMBER => self.command.live(),
            other => Err(Broken(format!("command {other} is none of the federation group"))),
        }
    }
}

/// One command, for [`log::join`].
pub fn encode_command(command: &command::Command) -> Vec<u8> {
    log::postcard_of(&Numbered::store(command), Vec::new())
}

/// The commands of an entry that [`log::join`] has made.
pub fn decode(bytes: &[u8]) -> Result<Vec<command::Command>, EntryError> {
    let commands: Vec<Numbered> = match bytes.split_first() {
        None => return Err(EntryError::Empty),
        Some((&VERSION_OF_ONE_CLOCK, encoded)) => log::parse::<(Timestamp, _)>(encoded)?.1,
        Some((&(VERSION_BEFORE_BIRTH..=VERSION), encoded)) => {
            log::parse::<(Timestamp, StateTime, _)>(encoded)?.2
        }
        Some((&actual, _)) => return Err(EntryError::Version { actual }),
    };
    log::live(commands)
}

stored_enum! {
    FederationCommand = command::Command {
        Init { federation: u128 },
        JoinCluster { cluster: u128, entry: ClusterEntry },
        MoveCluster { cluster: u128, entry: ClusterEntry },
        LeaveCluster { cluster: u128 },
        AddVolume { cluster: u128, name: Vec<u8> },
        SettleVolume { volume: u32, name: Vec<u8>, version: u64 },
        RetireVolume { volume: u32 },
        ForgetVolume { volume: u32 },
        CopyRoot { root: RootCopy },
    }
}

#[cfg(test)]
mod tests {
    use dfs_proto::attr;
    use dfs_proto::ids::VolumeId;

    use super::*;
    use crate::time;

    const RETIRE: command::Command = command::Command::RetireVolume { volume: VolumeId(300) };

    #[test]
    fn commands_encoded_one_by_one_are_read_in_their_order() {
        let forget = command::Command::ForgetVolume { volume: VolumeId(4) };
        let encoded = [encode_command(&RETIRE), encode_command(&forget)];
        let entry = log::join(attr::Timestamp::default(), time::StateTime::default(), &encoded);
        assert_eq!(decode(&entry), Ok(vec![RETIRE, forget]));
    }

    /// Byte for byte: the times, one command, number 20, `RetireVolume` of volume 300.
    #[test]
    fn entries_of_every_version_are_read() {
        assert_eq!(decode(&[2, 20, 7, 1, 20, 6, 0xac, 2]), Ok(vec![RETIRE]));
        for version in VERSION_BEFORE_BIRTH..=VERSION {
            assert_eq!(decode(&[version, 20, 7, 6, 1, 1, 20, 6, 0xac, 2]), Ok(vec![RETIRE]), "{version}");
        }
        assert_eq!(encode_command(&RETIRE), [20, 6, 0xac, 2]);
        assert_eq!(decode(&[VERSION + 1, 0]), Err(EntryError::Version { actual: VERSION + 1 }));
    }

    /// A command of a cluster is not taken for one of the federation.
    #[test]
    fn a_command_with_another_number_is_refused() {
        assert!(matches!(decode(&[2, 20, 7, 1, 17, 6, 0xac, 2]), Err(EntryError::Damaged { .. })));
    }
}
