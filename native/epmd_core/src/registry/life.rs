//! When a name was registered, when it left, and how often it came and went in a short time. Times are in milliseconds
//! since 1970.

use std::time::{SystemTime, UNIX_EPOCH};

/// A registration that lasts less than this ends right after it has begun: its VM has ended while it booted.
const SHORT: u64 = 10_000;
/// A name that comes back within this time goes on with its series.
const SOON: u64 = 60_000;

/// Registrations of one name that ended right after they had begun, one soon after another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Series {
    /// How many.
    pub times: u32,
    /// When the first of them began.
    pub since: u64,
}

/// One registration of a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// When it began.
    pub registered: u64,
    /// The series before it.
    pub(crate) before: Series,
}

/// A registration that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    /// When it began.
    pub registered: u64,
    /// When it ended.
    pub left: u64,
    /// The series that it belongs to.
    pub series: Series,
}

impl Life {
    /// A registration begins at this time, after the last one of its name.
    pub(super) fn after(last: Option<Past>, registered: u64) -> Self {
        let soon = last.filter(|last| registered.saturating_sub(last.left) <= SOON);
        Self { registered, before: soon.map(|last| last.series).unwrap_or_default() }
    }

    /// It ends at this time.
    pub(super) fn end(self, left: u64) -> Past {
        let Self { registered, before } = self;
        let series = match before.times {
            _ if left.saturating_sub(registered) >= SHORT => Series::default(),
            0 => Series { times: 1, since: registered },
            times => Series { times: times.saturating_add(1), ..before },
        };
        Past { registered, left, series }
    }

    /// It is lost at this time, through no fault of its node, which may register again.
    pub(super) fn lose(self, left: u64) -> Past {
        Past { registered: self.registered, left, series: self.before }
    }
}

impl Past {
    /// How long it lasted, in milliseconds.
    pub fn lasted(&self) -> u64 {
        self.left.saturating_sub(self.registered)
    }
}

/// The time.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The times of the series after registrations of these lengths, each this long after the last.
    fn times(lives: &[(u64, u64)]) -> u32 {
        let (mut time, mut last) = (1_000_000, None);
        for (pause, length) in lives {
            let life = Life::after(last, time + pause);
            time += pause + length;
            last = Some(life.end(time));
        }
        last.map_or(0, |past| past.series.times)
    }

    #[test]
    fn only_short_lives_that_follow_soon_are_a_series() {
        assert_eq!(times(&[(0, 400)]), 1);
        assert_eq!(times(&[(0, 400), (5_000, 400), (SOON, SHORT - 1)]), 3);
        assert_eq!(times(&[(0, 400), (SOON + 1, 400)]), 1);
        assert_eq!(times(&[(0, 400), (1, SHORT)]), 0);
        assert_eq!(times(&[(0, SHORT), (1, 400)]), 1);
    }

    #[test]
    fn a_series_tells_when_it_began_and_survives_a_loss() {
        let first = Life::after(None, 1_000).end(1_400);
        assert_eq!((first.lasted(), first.series), (400, Series { times: 1, since: 1_000 }));
        let lost = Life::after(Some(first), 2_000).lose(2_100);
        assert_eq!(lost.series, first.series);
        let again = Life::after(Some(lost), 3_000).end(3_100);
        assert_eq!(again.series, Series { times: 2, since: 1_000 });
    }

    #[test]
    fn a_clock_that_is_set_back_does_no_harm() {
        let past = Life::after(None, 9_000).end(1_000);
        assert_eq!((past.lasted(), past.series.times), (0, 1));
        assert_eq!(Life::after(Some(past), 500).end(600).series.times, 2);
    }
}
