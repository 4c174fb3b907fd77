//! A script: steps on numbered connections to a server.

use std::time::Duration;

/// One step. A connection is opened by the first step that names it.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Open(usize),
    /// One segment.
    Send(usize, Vec<u8>),
    /// A registration and its reply, which is one segment: then nothing is left to do for this connection.
    Register(usize, Vec<u8>),
    /// One segment with the end of the stream behind it.
    SendAndHalfClose(usize, Vec<u8>),
    HalfClose(usize),
    Close(usize),
    /// Closes with a reset.
    Reset(usize),
    /// Waits until the server has said something on this connection, or closed it.
    Reply(usize),
    /// Waits until the server has closed this connection.
    Closed(usize),
    Pause(Duration),
}

#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub family: &'static str,
    pub title: String,
    pub relaxed: bool,
    pub packet_timeout: Option<u64>,
    pub steps: Vec<Step>,
    /// For a script that ends the reference with `KILL_REQ`: other steps that leave the table that ours must have.
    pub same_table: Option<Vec<Step>>,
}

impl Script {
    pub(crate) fn new(family: &'static str, title: impl Into<String>) -> Self {
        Self { family, title: title.into(), relaxed: false, packet_timeout: None, steps: Vec::new(), same_table: None }
    }

    pub(crate) fn relaxed(mut self) -> Self {
        self.relaxed = true;
        self
    }

    pub(crate) fn packet_timeout(mut self, seconds: u64) -> Self {
        self.packet_timeout = Some(seconds);
        self
    }

    pub(crate) fn open(self, connection: usize) -> Self {
        self.step(Step::Open(connection))
    }

    pub(crate) fn send(self, connection: usize, segment: impl Into<Vec<u8>>) -> Self {
        self.step(Step::Send(connection, segment.into()))
    }

    pub(crate) fn send_and_half_close(self, connection: usize, segment: impl Into<Vec<u8>>) -> Self {
        self.step(Step::SendAndHalfClose(connection, segment.into()))
    }

    pub(crate) fn register(self, connection: usize, alive2: impl Into<Vec<u8>>) -> Self {
        self.step(Step::Register(connection, alive2.into()))
    }

    /// Sends a request and waits for the reply or the close.
    pub(crate) fn ask(self, connection: usize, request: impl Into<Vec<u8>>) -> Self {
        self.send(connection, request).step(Step::Reply(connection))
    }

    pub(crate) fn dribble(self, connection: usize, bytes: &[u8]) -> Self {
        bytes.iter().fold(self, |script, byte| script.send(connection, [*byte]))
    }

    pub(crate) fn half_close(self, connection: usize) -> Self {
        self.step(Step::HalfClose(connection))
    }

    pub(crate) fn close(self, connection: usize) -> Self {
        self.step(Step::Close(connection))
    }

    pub(crate) fn reset(self, connection: usize) -> Self {
        self.step(Step::Reset(connection))
    }

    pub(crate) fn closed(self, connection: usize) -> Self {
        self.step(Step::Closed(connection))
    }

    pub(crate) fn pause(self, time: Duration) -> Self {
        self.step(Step::Pause(time))
    }

    pub(crate) fn same_table_as(mut self, other: Self) -> Self {
        self.same_table = Some(other.steps);
        self
    }

    /// All bytes sent on a connection.
    pub(crate) fn sent(&self, connection: usize) -> Vec<u8> {
        let segments = self.steps.iter().filter_map(|step| match step {
            Step::Send(on, segment) | Step::Register(on, segment) | Step::SendAndHalfClose(on, segment)
                if *on == connection =>
            {
                Some(&segment[..])
            }
            _ => None,
        });
        segments.collect::<Vec<_>>().concat()
    }

    fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }
}
