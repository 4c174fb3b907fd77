//! The load generator: one thread that keeps up to 32 connections in flight, each of which carries one exchange.
//!
//! An exchange begins before its connection is opened, and ends when its reply has been verified. For a lookup that is
//! when the server has closed and every byte was as expected. For a registration it is when it was granted; then the
//! generator closes. Anything else is counted as a failure, by its cause.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::buffer::spare_capacity;
use rustix::event::{epoll, Timespec};
use rustix::io::Errno;
use rustix::net::{bind, connect, socket_with, AddressFamily, SocketFlags, SocketType};

use crate::interrupt::Interrupt;
use crate::wire;

/// Connections in flight at a time.
pub(crate) const IN_FLIGHT: usize = 32;
/// If the server sends nothing for this long, the exchanges in flight have failed.
const STALLED: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };
/// Longer than any expected reply, so a reply that fills it is wrong.
const REPLY_SPACE: usize = 64;

/// A request and the reply it must get.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    pub(crate) request: Vec<u8>,
    pub(crate) expected: Expected,
}

/// The reply that counts as success.
#[derive(Clone, Debug)]
pub(crate) enum Expected {
    /// These bytes, and then the server closes.
    ThenClosed(Vec<u8>),
    /// Any grant of a registration, and then the generator closes.
    Granted,
}

/// When exchanges are begun.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// Whenever one of the connections is free.
    AsFastAsPossible,
    /// At fixed times. Latency counts from the time an exchange was due, even if it began late because all connections
    /// were in use.
    PerSecond(f64),
}

/// What a run of the generator saw.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Time from begin to end of each successful exchange, ascending.
    pub(crate) latencies: Vec<Duration>,
    /// From the begin of the first exchange to the end of the last.
    pub(crate) elapsed: Duration,
    /// What went wrong, and how often.
    pub(crate) failures: Failures,
}

/// Causes of failures, each with how often it occurred.
pub(crate) type Failures = BTreeMap<String, u64>;

/// Sends the exchanges in turn, over and over, for this long, and waits for the last of them to end.
pub(crate) fn run(
    server: SocketAddrV4,
    exchanges: &[Exchange],
    pace: Pace,
    duration: Duration,
    interrupt: &Interrupt,
) -> Result<Outcome> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut schedule = Schedule::new(pace, duration);
    let mut upcoming = exchanges.iter().enumerate().cycle();
    let mut slots: Vec<Option<InFlight<'_>>> = (0..IN_FLIGHT).map(|_| None).collect();
    let mut free: Vec<usize> = (0..IN_FLIGHT).collect();
    let mut events = Vec::with_capacity(IN_FLIGHT);
    let mut outcome = Outcome::default();
    loop {
        while let Some(slot) = free.last() {
            let Some((begin, (number, exchange))) = schedule.next_due().zip(upcoming.next()) else { break };
            match InFlight::begin(server, number, exchange, begin, &epoll, *slot as u64) {
                Ok(begun) => slots[free.pop().unwrap_or_default()] = Some(begun),
                Err(failure) => outcome.count(failure),
            }
        }
        interrupt.check()?;
        let idle = free.len() == IN_FLIGHT;
        if idle && schedule.is_over() {
            break;
        }
        let may_sleep = schedule.is_over() || free.is_empty();
        let timeout = if may_sleep { STALLED } else { Timespec::default() };
        match epoll::wait(&epoll, spare_capacity(&mut events), Some(&timeout)) {
            Ok(0) if may_sleep => {
                slots.iter().flatten().for_each(|_| outcome.count("no reply".into()));
                break;
            }
            Ok(0) => thread::yield_now(),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events.drain(..) {
            let slot = event.data.u64() as usize;
            let Some(in_flight) = &mut slots[slot] else { continue };
            match in_flight.advance(&epoll, slot as u64) {
                Ok(Progress::Waiting) => continue,
                Ok(Progress::Done) => outcome.latencies.push(in_flight.begin.elapsed()),
                Err(failure) => outcome.count(failure),
            }
            slots[slot] = None;
            free.push(slot);
        }
    }
    outcome.elapsed = schedule.began.elapsed();
    outcome.latencies.sort_unstable();
    Ok(outcome)
}

impl Outcome {
    fn count(&mut self, failure: String) {
        *self.failures.entry(failure).or_default() += 1;
    }
}

/// Opens a connection from one of 250 loopback addresses. The side that closes first keeps the pair of addresses and
/// ports in TIME_WAIT for a minute. Where that is the generator, a single address would run out of ports.
pub(crate) fn connect_from(number: usize, server: SocketAddrV4, flags: SocketFlags) -> io::Result<TcpStream> {
    let socket = open(flags)?;
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 2 + (number % 250) as u8), 0))?;
    establish(socket, server)
}

fn open(flags: SocketFlags) -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::INET, SocketType::STREAM, flags | SocketFlags::CLOEXEC, None)?)
}

fn establish(socket: OwnedFd, server: SocketAddrV4) -> io::Result<TcpStream> {
    match connect(&socket, &server) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket.into()),
        Err(error) => Err(error.into()),
    }
}

/// Decides when the next exchange begins.
struct Schedule {
    began: Instant,
    duration: Duration,
    pace: Pace,
    issued: u64,
}

impl Schedule {
    fn new(pace: Pace, duration: Duration) -> Self {
        Self { began: Instant::now(), duration, pace, issued: 0 }
    }

    /// The time from which the next exchange counts, or nothing if none is due.
    fn next_due(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let due = match self.pace {
            Pace::AsFastAsPossible => now,
            Pace::PerSecond(rate) => self.planned(rate),
        };
        let is_due = due <= now && due < self.began + self.duration;
        self.issued += u64::from(is_due);
        is_due.then_some(due)
    }

    /// Whether no more exchanges will be due.
    fn is_over(&self) -> bool {
        let next = match self.pace {
            Pace::AsFastAsPossible => Instant::now(),
            Pace::PerSecond(rate) => self.planned(rate),
        };
        next >= self.began + self.duration
    }

    fn planned(&self, rate: f64) -> Instant {
        self.began + Duration::from_secs_f64(self.issued as f64 / rate)
    }
}

/// One exchange on its connection.
struct InFlight<'a> {
    stream: TcpStream,
    exchange: &'a Exchange,
    begin: Instant,
    is_sent: bool,
    reply: [u8; REPLY_SPACE],
    received: usize,
}

enum Progress {
    Waiting,
    Done,
}

impl<'a> InFlight<'a> {
    /// Connects and sends at once: on the loopback interface a connection is established before `connect` returns.
    fn begin(
        server: SocketAddrV4,
        number: usize,
        exchange: &'a Exchange,
        begin: Instant,
        epoll: &OwnedFd,
        token: u64,
    ) -> Result<Self, String> {
        let stream = match exchange.expected {
            Expected::ThenClosed(_) => open(SocketFlags::NONBLOCK).and_then(|socket| establish(socket, server)),
            Expected::Granted => connect_from(number, server, SocketFlags::NONBLOCK),
        };
        let stream = stream.map_err(|error| cause("connect", &error))?;
        let mut begun = Self { stream, exchange, begin, is_sent: false, reply: [0; REPLY_SPACE], received: 0 };
        begun.send()?;
        epoll::add(epoll, &begun.stream, epoll::EventData::new_u64(token), begun.interest())
            .map_err(|error| cause("epoll", &error.into()))?;
        Ok(begun)
    }

    /// Does what can be done now.
    fn advance(&mut self, epoll: &OwnedFd, token: u64) -> Result<Progress, String> {
        if !self.is_sent {
            self.send()?;
            epoll::modify(epoll, &self.stream, epoll::EventData::new_u64(token), self.interest())
                .map_err(|error| cause("epoll", &error.into()))?;
            return Ok(Progress::Waiting);
        }
        self.receive()
    }

    /// For a lookup only the end of the reply is an event, not its first byte as well.
    fn interest(&self) -> epoll::EventFlags {
        match (self.is_sent, &self.exchange.expected) {
            (false, _) => epoll::EventFlags::OUT,
            (true, Expected::ThenClosed(_)) => epoll::EventFlags::RDHUP,
            (true, Expected::Granted) => epoll::EventFlags::IN,
        }
    }

    fn send(&mut self) -> Result<(), String> {
        match self.stream.write(&self.exchange.request) {
            Ok(sent) if sent == self.exchange.request.len() => self.is_sent = true,
            Ok(_) => return Err("send: only a part".into()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(cause("send", &error)),
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<Progress, String> {
        loop {
            let is_closed = match self.stream.read(&mut self.reply[self.received..]) {
                Ok(0) => true,
                Ok(length) => {
                    self.received += length;
                    false
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Progress::Waiting),
                Err(error) => return Err(cause("receive", &error)),
            };
            let reply = &self.reply[..self.received];
            let is_expected = match &self.exchange.expected {
                Expected::ThenClosed(expected) if is_closed => reply == expected,
                Expected::Granted if is_closed || reply.len() >= wire::GRANTED_LENGTH => wire::is_granted(reply),
                _ => continue,
            };
            return if is_expected { Ok(Progress::Done) } else { Err(format!("wrong reply: {reply:?}")) };
        }
    }
}

fn cause(step: &str, error: &io::Error) -> String {
    format!("{step}: {error}")
}
