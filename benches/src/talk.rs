//! A program that a bench talks with, a line at a time.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child as Process, ChildStdin, ChildStdout, Command, Stdio};

use crate::child::{Cost, cost_of};

/// It is killed when dropped.
#[derive(Debug)]
pub struct Talk {
    process: Process,
    says: BufReader<ChildStdout>,
    hears: ChildStdin,
}

impl Talk {
    pub fn start(mut command: Command) -> io::Result<Self> {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = piped.spawn()?;
        Ok(Self {
            says: BufReader::new(process.stdout.take().expect("it is piped")),
            hears: process.stdin.take().expect("it is piped"),
            process,
        })
    }

    /// The next line that it says, without its end.
    pub fn hear(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.says.read_line(&mut line)? == 0 {
            return Err(io::Error::other("it ended without a word"));
        }
        Ok(line.trim().to_owned())
    }

    /// Says a line to it, and hears the next of its own.
    pub fn ask(&mut self, line: &str) -> io::Result<String> {
        writeln!(self.hears, "{line}")?;
        self.hear()
    }

    pub fn cost(&self) -> io::Result<Cost> {
        cost_of(self.process.id())
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
