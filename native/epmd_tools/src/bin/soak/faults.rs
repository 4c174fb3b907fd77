//! The faults, and what is promised after each.

use std::time::Duration;

use crate::host::Host;
use crate::nodes::Nodes;
use epmd_tools::random::Random;

macro_rules! faults {
    ($($name:ident),+ $(,)?) => {
        /// One or more things that go wrong at once.
        #[derive(Clone, Copy, Debug)]
        pub enum Fault {
            $($name),+
        }

        use Fault::*;

        const FAULTS: &[Fault] = &[$($name),+];
    };
}

faults! {
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

impl Fault {
    pub fn random(random: &mut Random) -> Self {
        FAULTS[random.below(FAULTS.len())]
    }

    /// Makes it happen on a host that is whole. Returns whether a whole standby was spared, so that nothing may be
    /// lost.
    pub fn inject(self, host: &mut Host, nodes: &Nodes, random: &mut Random) -> Result<bool, String> {
        // Every fault draws the same number of times, so that later faults depend on the seed only.
        let (which, moment) = (random.below(2), random.below(1_000));
        let pause = Duration::from_millis(random.below(3_000) as u64 + if random.below(8) == 0 { 12_000 } else { 0 });
        let (Some(owner), &[first, second]) = (host.owner(), host.standbys().as_slice()) else {
            return Err("the host is not whole".into());
        };
        let (standby, joined) = ([first, second][which], host.joined()[0]);
        std::thread::sleep(Duration::from_micros(moment as u64 * 20));
        match self {
            KillOwner | StopOwner => self.end_owner(host, nodes, owner),
            KillOwnerAndStandby => {
                // The other standby may lag behind, and the first may grant a name in the moment that it serves.
                let _still = hold_still(host, nodes)?;
                nodes.expect_failures();
                host.kill(&[owner, standby]);
            }
            StopOwnerKillStandby => {
                let _still = hold_still(host, nodes)?;
                nodes.expect_failures();
                host.stop(&[owner]);
                host.kill(&[standby]);
            }
            StopOwnerAndStandby => {
                // The standby may serve for a moment before it stops.
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
                // An owner that takes it for dead opens the port again, which may cost a lookup.
                nodes.expect_failures();
                host.pause(standby);
                host.wait(pause)?;
            }
            KillOwnerWhileStandbyPaused | StopOwnerWhileStandbyPaused => {
                host.pause(standby);
                host.wait(pause / 10)?;
                self.end_owner(host, nodes, owner);
                host.someone_serves()?;
                host.wait(pause / 10)?;
            }
            ExhaustStandbysKillOwner | ExhaustStandbysStopOwner => {
                // One that goes would free a descriptor, and one that comes needs one that is not there.
                let _still = hold_still(host, nodes)?;
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
                self.end_owner(host, nodes, owner);
                host.someone_serves()?;
                nodes.all_held()?;
                // Without descriptors they are of no more use to the soak.
                nodes.expect_losses();
                host.kill_named(&exhausted);
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Kills the owner, or stops it in order, which fails no lookup.
    fn end_owner(self, host: &mut Host, nodes: &Nodes, owner: usize) {
        match self {
            Self::StopOwner | Self::StopOwnerWhileStandbyPaused | Self::ExhaustStandbysStopOwner => host.stop(&[owner]),
            _ => {
                nodes.expect_failures();
                host.kill(&[owner]);
            }
        }
    }
}

/// Nobody comes or goes until the guard is dropped, and the standbys have had time to receive what was sent.
fn hold_still<'a>(host: &mut Host, nodes: &'a Nodes) -> Result<impl Drop + use<'a>, String> {
    let still = nodes.hold_still();
    host.wait(Duration::from_millis(200))?;
    Ok(still)
}
