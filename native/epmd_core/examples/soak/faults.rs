//! The faults, and what is promised after each.

use std::time::Duration;

use crate::host::Host;
use crate::nodes::Nodes;
use crate::support::random::Random;

/// One or more things that go wrong at once.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    KillOwner,
    StopOwner,
    KillOwnerAndStandby,
    StopOwnerKillStandby,
    StopOwnerAndStandby,
    KillOwnerAndStandbys,
    KillStandby,
    StopStandby,
    KillJoined,
    PauseOwner,
    PauseStandby,
    KillOwnerWhileStandbyPaused,
    StopOwnerWhileStandbyPaused,
    ExhaustStandbysKillOwner,
    ExhaustStandbysStopOwner,
}

use Fault::*;

const FAULTS: [Fault; 15] = [
    KillOwner,
    StopOwner,
    KillOwnerAndStandby,
    StopOwnerKillStandby,
    StopOwnerAndStandby,
    KillOwnerAndStandbys,
    KillStandby,
    StopStandby,
    KillJoined,
    PauseOwner,
    PauseStandby,
    KillOwnerWhileStandbyPaused,
    StopOwnerWhileStandbyPaused,
    ExhaustStandbysKillOwner,
    ExhaustStandbysStopOwner,
];

impl Fault {
    pub fn random(random: &mut Random) -> Self {
        random.one_of(&FAULTS)
    }

    /// Has it happen on a host that is whole. Whether a standby was whole that had no part in it, so that nothing is
    /// lost.
    pub fn strike(self, host: &mut Host, nodes: &Nodes, random: &mut Random) -> Result<bool, String> {
        // The same number of draws for every fault, so that what comes later does not depend on who serves.
        let (which, moment) = (random.below(2), random.below(1_000));
        let pause = Duration::from_millis(random.below(3_000) as u64 + if random.below(8) == 0 { 12_000 } else { 0 });
        let (Some(owner), &[first, second]) = (host.owner(), host.standbys().as_slice()) else {
            return Err("the host is not whole".into());
        };
        let (standby, joined) = ([first, second][which], host.joined()[0]);
        std::thread::sleep(Duration::from_micros(moment as u64 * 20));
        match self {
            KillOwner => {
                nodes.expect_failures();
                host.kill(&[owner]);
            }
            StopOwner => host.stop(&[owner]),
            KillOwnerAndStandby => {
                nodes.expect_failures();
                host.kill(&[owner, standby]);
            }
            StopOwnerKillStandby => {
                nodes.expect_failures();
                host.stop(&[owner]);
                host.kill(&[standby]);
            }
            StopOwnerAndStandby => {
                // The standby may serve for a moment, and stop in its turn.
                host.stop(&[owner, standby]);
            }
            KillOwnerAndStandbys => {
                nodes.expect_losses();
                host.kill(&[owner, first, second]);
                return Ok(false);
            }
            KillStandby => host.kill(&[standby]),
            StopStandby => host.stop(&[standby]),
            KillJoined => host.kill(&[joined]),
            PauseOwner => {
                host.pause(owner);
                host.wait(pause.min(Duration::from_secs(3)))?;
            }
            PauseStandby => {
                // An owner that takes it for dead opens the port again.
                nodes.expect_failures();
                host.pause(standby);
                host.wait(pause)?;
            }
            KillOwnerWhileStandbyPaused | StopOwnerWhileStandbyPaused => {
                host.pause(standby);
                host.wait(pause / 10)?;
                if matches!(self, KillOwnerWhileStandbyPaused) {
                    nodes.expect_failures();
                    host.kill(&[owner]);
                } else {
                    host.stop(&[owner]);
                }
                host.someone_serves()?;
                host.wait(pause / 10)?;
            }
            ExhaustStandbysKillOwner | ExhaustStandbysStopOwner => {
                // A node that goes leaves a descriptor, and one that comes would take one that is not there.
                let _still = nodes.hold_still();
                // What was passed is taken, and what left is let go.
                host.wait(Duration::from_millis(100))?;
                let exhausted = [first, second].map(|at| host.member(at).name.clone());
                for at in [first, second] {
                    host.member(at).process.use_up_descriptors();
                }
                host.wait(Duration::from_millis(50))?;
                if host.standbys() != [first, second] {
                    nodes.expect_losses();
                    host.kill_named(&exhausted);
                    return Ok(false);
                }
                if matches!(self, ExhaustStandbysKillOwner) {
                    nodes.expect_failures();
                    host.kill(&[owner]);
                } else {
                    host.stop(&[owner]);
                }
                host.someone_serves()?;
                nodes.all_held()?;
                // Neither can take anybody new: both have had their turn.
                nodes.expect_losses();
                host.kill_named(&exhausted);
                return Ok(false);
            }
        }
        Ok(true)
    }
}
