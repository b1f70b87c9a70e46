//! The host's side of the step, whatever runs the kernels: a CUDA device, or in a test a host program.

use std::collections::BTreeMap;

use super::entry::{Entry, RULE, TENSOR};
use super::table::{Kernel, PLAN, Partition, SUMS, Shape};

/// Words of the argument that every kernel takes.
pub(crate) const ARGS: usize = 11;

/// Something that holds words of 8 bytes and runs the kernels of `step.cu` on them, in the order asked for.
pub(crate) trait Machine {
    type Buffer;
    type Error;

    /// Words that are 0.
    fn zeros(&mut self, words: usize) -> Result<Self::Buffer, Self::Error>;
    /// Where a buffer lies for a kernel.
    fn address(&self, buffer: &Self::Buffer) -> u64;
    /// Fills the front of a buffer.
    fn upload(&mut self, words: &[u64], to: &mut Self::Buffer) -> Result<(), Self::Error>;
    /// Waits for all launches, and copies a buffer to the host.
    fn download(&mut self, from: &Self::Buffer) -> Result<Vec<u64>, Self::Error>;
    fn launch(&mut self, kernel: Kernel, blocks: u64, args: [u64; ARGS])
    -> Result<(), Self::Error>;
}

/// What happens after a step that found something not finite, and so changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnBad {
    /// All later steps change nothing either, until the host has checked.
    Halt,
    /// The next step is a step as any other.
    Skip,
}

/// What the steps since the last check came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Checked {
    /// Steps that changed nothing.
    pub(crate) cancelled: u64,
    /// How many of them each parameter took part in; those without any are left out.
    pub(crate) missed: Vec<(String, u64)>,
    /// Why the first of them was cancelled: the parameter, and which of its tensors was not finite (`g`, `f`, `R`, `C`,
    /// `m` or `theta`); `squares`: they were negative.
    pub(crate) first: Option<(String, &'static str)>,
}

/// What a step measured of one parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Measured {
    /// ε̂
    pub(crate) eps_hat: f64,
    /// RMS of g, of the natural gradient, of the weight decay on the manifold and of the auxiliary gradient over d.
    pub(crate) rms: [f64; 4],
}

/// `WHATS` of `step.cu`.
const WHATS: [&str; 7] = ["g", "squares", "f", "R", "C", "m", "theta"];
/// `NONE` of `step.cu`.
const NONE: u64 = u64::MAX;

/// Memory of a machine that grows.
struct Room<B> {
    buffer: Option<B>,
    words: usize,
}

impl<B> Room<B> {
    fn new() -> Self {
        Self { buffer: None, words: 0 }
    }

    /// Where at least `words` words lie; their values are not kept when it grows.
    fn hold<M: Machine<Buffer = B>>(
        &mut self,
        machine: &mut M,
        words: usize,
    ) -> Result<u64, M::Error> {
        if self.words < words {
            self.buffer = Some(machine.zeros(words)?);
            self.words = words;
        }
        Ok(self.buffer.as_ref().map_or(0, |buffer| machine.address(buffer)))
    }
}

/// A table on the machine, uploaded only when it has changed.
struct Table<B> {
    room: Room<B>,
    words: Vec<u64>,
}

impl<B> Table<B> {
    fn new() -> Self {
        Self { room: Room::new(), words: Vec::new() }
    }

    /// Where the words lie.
    fn set<M: Machine<Buffer = B>>(
        &mut self,
        machine: &mut M,
        words: &[u64],
    ) -> Result<u64, M::Error> {
        let address = self.room.hold(machine, words.len())?;
        if self.words != words
            && let Some(buffer) = &mut self.room.buffer
        {
            // Forgotten until the upload is done: after an error, what the buffer holds is not known.
            self.words.clear();
            machine.upload(words, buffer)?;
            self.words.extend_from_slice(words);
        }
        Ok(address)
    }
}

/// Parameters that a session has seen, and the counters of their cancelled steps on the machine.
struct Slots<B> {
    /// The slot of each name.
    of: BTreeMap<String, usize>,
    names: Vec<String>,
    /// The address of each slot's counter.
    counters: Vec<u64>,
    buffers: Vec<B>,
}

impl<B> Slots<B> {
    /// Gives every new name a slot. Counters never move, since they count on between the checks.
    fn add<M: Machine<Buffer = B>>(
        &mut self,
        machine: &mut M,
        entries: &[Entry],
    ) -> Result<(), M::Error> {
        let mut new: Vec<&str> = entries.iter().map(|entry| entry.name).collect();
        new.retain(|name| !self.of.contains_key(*name));
        if new.is_empty() {
            return Ok(());
        }
        let buffer = machine.zeros(new.len())?;
        let address = machine.address(&buffer);
        self.buffers.push(buffer);
        for (k, name) in new.into_iter().enumerate() {
            self.of.insert(name.to_owned(), self.names.len());
            self.names.push(name.to_owned());
            self.counters.push(address + 8 * k as u64);
        }
        Ok(())
    }
}

/// The steps of one optimizer on one machine.
pub(crate) struct Session<M: Machine> {
    machine: M,
    on_bad: OnBad,
    status: M::Buffer,
    slots: Slots<M::Buffer>,
    /// The shapes of the last step, and how they are cut.
    shapes: Vec<Shape>,
    partition: Partition,
    tensors: Table<M::Buffer>,
    rules: Table<M::Buffer>,
    chunks: Table<M::Buffer>,
    lines: Table<M::Buffer>,
    plans: Room<M::Buffer>,
    partial: Room<M::Buffer>,
    scratch: Room<M::Buffer>,
}

impl<M: Machine> Session<M> {
    pub(crate) fn new(mut machine: M, on_bad: OnBad) -> Result<Self, M::Error> {
        let mut status = machine.zeros(5)?;
        machine.upload(&fresh_status(on_bad), &mut status)?;
        let slots = Slots { of: BTreeMap::new(), names: vec![], counters: vec![], buffers: vec![] };
        Ok(Self {
            machine,
            on_bad,
            status,
            slots,
            shapes: vec![],
            partition: Partition::default(),
            tensors: Table::new(),
            rules: Table::new(),
            chunks: Table::new(),
            lines: Table::new(),
            plans: Room::new(),
            partial: Room::new(),
            scratch: Room::new(),
        })
    }

    /// Launches one step of all entries. Does not wait for it.
    pub(crate) fn step(&mut self, entries: &[Entry]) -> Result<(), M::Error> {
        if entries.is_empty() {
            return Ok(());
        }
        self.slots.add(&mut self.machine, entries)?;
        if !entries.iter().map(|entry| entry.shape).eq(self.shapes.iter().copied()) {
            self.shapes = entries.iter().map(|entry| entry.shape).collect();
            self.partition = Partition::new(&self.shapes);
        }
        let args = self.arguments(entries)?;
        for (kernel, blocks, second) in self.partition.launches(entries.len()) {
            let mut args = args;
            args[ARGS - 1] = second;
            self.machine.launch(kernel, blocks, args)?;
        }
        Ok(())
    }

    /// Brings the tables up to date; returns `Args` of `step.cu`.
    fn arguments(&mut self, entries: &[Entry]) -> Result<[u64; ARGS], M::Error> {
        let Self { machine, slots, partition, .. } = self;
        // Mostly one rule: they differ when some parameters have missed a gradient.
        let mut rules: Vec<[u64; RULE]> = Vec::new();
        let mut tensors = Vec::with_capacity(entries.len() * TENSOR);
        for (entry, place) in entries.iter().zip(&partition.places) {
            let words = entry.numbers.words();
            let rule = rules.iter().position(|known| *known == words).unwrap_or_else(|| {
                rules.push(words);
                rules.len() - 1
            });
            let slot = slots.of[entry.name];
            tensors.extend(entry.words(place, rule, slot, slots.counters[slot]));
        }
        let chunks = partition.chunks.len();
        Ok([
            self.tensors.set(machine, &tensors)?,
            self.rules.set(machine, &rules.concat())?,
            self.chunks.set(machine, &partition.chunks)?,
            self.lines.set(machine, &partition.lines)?,
            self.plans.hold(machine, entries.len() * PLAN)?,
            self.partial.hold(machine, chunks * SUMS)?,
            self.scratch.hold(machine, partition.scratch as usize)?,
            machine.address(&self.status),
            entries.len() as u64,
            chunks as u64,
            0,
        ])
    }

    /// Waits for all steps, and returns what the last one measured of each entry.
    pub(crate) fn measures(&mut self) -> Result<Vec<Measured>, M::Error> {
        let Some(plans) = &self.plans.buffer else { return Ok(vec![]) };
        let words = self.machine.download(plans)?;
        let (plans, _) = words.as_chunks::<PLAN>();
        let number = |word: u64| f64::from_bits(word);
        let measured = |plan: &[u64; PLAN]| Measured {
            eps_hat: number(plan[2]),
            rms: [9, 10, 11, 12].map(|at| number(plan[at])),
        };
        Ok(plans[..self.shapes.len()].iter().map(measured).collect())
    }

    /// Waits for all steps, and returns (and forgets) which of them were cancelled.
    pub(crate) fn check(&mut self) -> Result<Checked, M::Error> {
        let status = self.machine.download(&self.status)?;
        let (first, cancelled) = (status[3], status[4]);
        if cancelled == 0 {
            return Ok(Checked::default());
        }
        let mut counts = Vec::with_capacity(self.slots.names.len());
        for buffer in &mut self.slots.buffers {
            let words = self.machine.download(buffer)?;
            self.machine.upload(&vec![0; words.len()], buffer)?;
            counts.extend(words);
        }
        self.machine.upload(&fresh_status(self.on_bad), &mut self.status)?;
        let names = self.slots.names.iter().cloned();
        let what = WHATS.len() as u64;
        Ok(Checked {
            cancelled,
            missed: names.zip(counts).filter(|(_, count)| *count > 0).collect(),
            first: (first != NONE).then(|| {
                (self.slots.names[(first / what) as usize].clone(), WHATS[(first % what) as usize])
            }),
        })
    }
}

/// `Status` of `step.cu` before the first step.
fn fresh_status(on_bad: OnBad) -> [u64; 5] {
    [u64::from(on_bad == OnBad::Halt), 0, NONE, NONE, 0]
}
