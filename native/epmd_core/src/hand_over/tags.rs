//! The tags of the messages, by which the fuzz targets write them as well.

pub const HELLO: u8 = 1;
pub const ALIVE: u8 = 2;
pub const LISTENER: u8 = 3;
pub const COUNTERS: u8 = 4;
pub const DEPARTED: u8 = 5;
pub const ENTERED: u8 = 6;
pub const LEFT: u8 = 7;
pub const WHOLE: u8 = 8;
pub const TAKE_OVER: u8 = 9;
pub const TAKEN: u8 = 10;
pub const EPOCH: u8 = 11;
pub const RESUMED: u8 = 12;
pub const KEPT: u8 = 13;
pub const RECONNECT: u8 = 14;
pub const SETTLED: u8 = 15;
pub const REFUSED: u8 = 16;
