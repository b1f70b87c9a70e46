//! `step.cu` as a host program, and the parameters that it steps.

mod draws;
mod goldens;
mod model;
mod plain;

use std::cell::RefCell;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::rc::Rc;
use std::sync::LazyLock;

use half::{bf16, f16};

use crate::entry::{Addresses, Dtype, Entry, Numbers, Squared};
use crate::session::{ARGS, Machine};
use crate::table::{Kernel, Shape};

pub(crate) use plain::{Fim, Plain};

/// The compiled program; `None` where there is no C++ compiler.
static PROGRAM: LazyLock<Option<PathBuf>> = LazyLock::new(compile);

/// Compiles with `$CXX $CXXFLAGS`, so that a sanitizer can be asked for.
fn compile() -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda_host/harness.cpp");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fadam-cuda-host");
    // Tests of two processes may compile at the same time.
    let aside = program.with_extension(std::process::id().to_string());
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let flags = std::env::var("CXXFLAGS").unwrap_or_default();
    let status = Command::new(&compiler)
        .args(["-O1", "-std=c++17", "-Wno-unknown-pragmas"])
        .args(flags.split_whitespace())
        .args([source.as_os_str(), "-o".as_ref(), aside.as_os_str()])
        .status();
    match status {
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            eprintln!("SKIPPED: {compiler} is not installed, so step.cu is not tested on the host");
            None
        }
        Err(err) => panic!("{compiler}: {err}"),
        Ok(status) => {
            assert!(status.success(), "{compiler} cannot compile {}", source.display());
            std::fs::rename(&aside, &program).unwrap();
            Some(program)
        }
    }
}

/// The running program; a clone is the same one.
#[derive(Clone)]
pub(crate) struct Host(Rc<RefCell<Process>>);

struct Process {
    child: Child,
    requests: Option<BufWriter<ChildStdin>>,
    replies: BufReader<ChildStdout>,
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.requests.take()); // which ends it
        let status = self.child.wait().unwrap();
        assert!(status.success() || std::thread::panicking(), "the host program failed: {status}");
    }
}

impl Host {
    /// Starts the program, unless there is no compiler.
    pub(crate) fn start() -> Option<Self> {
        let program = PROGRAM.as_ref()?;
        let mut command = Command::new(program);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let requests = child.stdin.take().map(BufWriter::new);
        let replies = BufReader::new(child.stdout.take().unwrap());
        Some(Self(Rc::new(RefCell::new(Process { child, requests, replies }))))
    }

    fn send(&self, words: &[u64], bytes: &[u8]) -> io::Result<()> {
        let mut process = self.0.borrow_mut();
        let requests = process.requests.as_mut().expect("open until it is dropped");
        words.iter().try_for_each(|word| requests.write_all(&word.to_ne_bytes()))?;
        requests.write_all(bytes)
    }

    fn receive(&self, bytes: usize) -> io::Result<Vec<u8>> {
        let mut process = self.0.borrow_mut();
        process.requests.as_mut().expect("open until it is dropped").flush()?;
        let mut reply = vec![0; bytes];
        process.replies.read_exact(&mut reply)?;
        Ok(reply)
    }

    fn allocate(&self, bytes: usize) -> io::Result<u64> {
        self.send(&[0, bytes as u64], &[])?;
        let reply = self.receive(8)?;
        Ok(u64::from_ne_bytes(reply.try_into().unwrap()))
    }

    fn write(&self, address: u64, bytes: &[u8]) -> io::Result<()> {
        self.send(&[1, address, bytes.len() as u64], bytes)
    }

    fn read(&self, address: u64, bytes: usize) -> io::Result<Vec<u8>> {
        self.send(&[2, address, bytes as u64], &[])?;
        self.receive(bytes)
    }

    /// Runs blocks, and the threads in them, in the opposite order.
    pub(crate) fn backwards(&self, on: bool) {
        self.send(&[4, u64::from(on)], &[]).unwrap();
    }
}

impl Machine for Host {
    /// Address and words.
    type Buffer = (u64, usize);
    type Error = io::Error;

    fn zeros(&mut self, words: usize) -> io::Result<Self::Buffer> {
        Ok((self.allocate(8 * words)?, words))
    }

    fn address(&self, buffer: &Self::Buffer) -> u64 {
        buffer.0
    }

    fn upload(&mut self, words: &[u64], to: &mut Self::Buffer) -> io::Result<()> {
        assert!(words.len() <= to.1);
        self.write(to.0, &words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>())
    }

    fn download(&mut self, from: &Self::Buffer) -> io::Result<Vec<u64>> {
        let bytes = self.read(from.0, 8 * from.1)?;
        let (words, _) = bytes.as_chunks::<8>();
        Ok(words.iter().map(|word| u64::from_ne_bytes(*word)).collect())
    }

    fn launch(&mut self, kernel: Kernel, blocks: u64, args: [u64; ARGS]) -> io::Result<()> {
        self.send(&[&[3, kernel as u64, blocks], &args[..]].concat(), &[])
    }
}

/// Numbers as bytes of a dtype, and back.
fn encode(values: &[f64], dtype: Dtype) -> Vec<u8> {
    let each = values.iter().copied();
    match dtype {
        Dtype::F32 => each.flat_map(|x| (x as f32).to_ne_bytes()).collect(),
        Dtype::BF16 => each.flat_map(|x| bf16::from_f32(x as f32).to_ne_bytes()).collect(),
        Dtype::F16 => each.flat_map(|x| f16::from_f32(x as f32).to_ne_bytes()).collect(),
        Dtype::F64 => each.flat_map(f64::to_ne_bytes).collect(),
    }
}

fn decode(bytes: &[u8], dtype: Dtype) -> Vec<f64> {
    let (two, four, eight) =
        (bytes.as_chunks::<2>().0, bytes.as_chunks::<4>().0, bytes.as_chunks::<8>().0);
    match dtype {
        Dtype::F32 => four.iter().map(|x| f32::from_ne_bytes(*x).into()).collect(),
        Dtype::BF16 => two.iter().map(|x| bf16::from_ne_bytes(*x).into()).collect(),
        Dtype::F16 => two.iter().map(|x| f16::from_ne_bytes(*x).into()).collect(),
        Dtype::F64 => eight.iter().map(|x| f64::from_ne_bytes(*x)).collect(),
    }
}

/// The values once they are stored in a dtype.
pub(crate) fn stored(values: &[f64], dtype: Dtype) -> Vec<f64> {
    decode(&encode(values, dtype), dtype)
}

/// What the state of such a parameter is stored in.
pub(crate) fn state_dtype(dtype: Dtype) -> Dtype {
    if dtype == Dtype::F64 { Dtype::F64 } else { Dtype::F32 }
}

/// A tensor in the memory of the program.
struct Held {
    host: Host,
    address: u64,
    dtype: Dtype,
    count: usize,
}

impl Held {
    fn new(host: &Host, values: &[f64], dtype: Dtype) -> Self {
        let bytes = encode(values, dtype);
        let address = host.allocate(bytes.len()).unwrap();
        host.write(address, &bytes).unwrap();
        Self { host: host.clone(), address, dtype, count: values.len() }
    }

    fn set(&self, values: &[f64]) {
        assert_eq!(values.len(), self.count);
        self.host.write(self.address, &encode(values, self.dtype)).unwrap();
    }

    fn get(&self) -> Vec<f64> {
        let bytes = self.count * encode(&[0.0], self.dtype).len();
        decode(&self.host.read(self.address, bytes).unwrap(), self.dtype)
    }
}

/// A parameter in the memory of the program, with its state and room for what a step needs.
pub(crate) struct Param {
    pub(crate) name: String,
    dtype: Dtype,
    pub(crate) shape: Shape,
    squares: Squared,
    theta: Held,
    m: Held,
    /// f, or R and C.
    f: Vec<Held>,
    g: Held,
    given: Option<Held>,
    auxiliary: Option<Held>,
}

/// What a step is given for one parameter.
pub(crate) struct Given<'a> {
    pub(crate) g: &'a [f64],
    /// The squares, or the sampled gradient.
    pub(crate) squares: Option<&'a [f64]>,
    pub(crate) auxiliary: Option<&'a [f64]>,
}

impl Param {
    /// A parameter as `plain` is, whose steps will be given what `squares` and `auxiliary` say.
    pub(crate) fn new(
        host: &Host,
        name: &str,
        plain: &Plain,
        squares: Squared,
        auxiliary: bool,
    ) -> Self {
        let (dtype, state) = (plain.dtype, state_dtype(plain.dtype));
        let zeros = vec![0.0; plain.theta.len()];
        let shape = plain.shape();
        let f = match &plain.f {
            Fim::Full(f) => vec![f],
            Fim::Factored { r, c, .. } => vec![r, c],
        };
        let given = match squares {
            Squared::OfGradient => None,
            Squared::Given(_) => Some(state),
            Squared::Sampled(_) => Some(dtype),
        };
        Self {
            name: name.to_owned(),
            dtype,
            shape,
            squares,
            theta: Held::new(host, &plain.theta, dtype),
            m: Held::new(host, &plain.m, state),
            f: f.into_iter().map(|f| Held::new(host, f, state)).collect(),
            g: Held::new(host, &zeros, dtype),
            given: given.map(|dtype| Held::new(host, &zeros, dtype)),
            auxiliary: auxiliary.then(|| Held::new(host, &zeros, dtype)),
        }
    }

    /// Uploads what a step is given, and says how it is to be stepped.
    pub(crate) fn entry(&self, numbers: Numbers, given: &Given) -> Entry<'_> {
        self.g.set(given.g);
        for (held, values) in [(&self.given, given.squares), (&self.auxiliary, given.auxiliary)] {
            if let (Some(held), Some(values)) = (held, values) {
                held.set(values);
            }
        }
        let address = |held: Option<&Held>| held.map_or(0, |held| held.address);
        let factored = self.f.len() == 2;
        let addresses = Addresses {
            theta: self.theta.address,
            m: self.m.address,
            f: if factored { 0 } else { self.f[0].address },
            r: if factored { self.f[0].address } else { 0 },
            c: address(self.f.get(1)),
            g: self.g.address,
            squares: address(self.given.as_ref()),
            auxiliary: address(self.auxiliary.as_ref()),
        };
        let Self { dtype, shape, squares, .. } = *self;
        Entry { name: &self.name, dtype, shape, addresses, squares, numbers }
    }

    /// θ, m and f (or R and C) one after another.
    pub(crate) fn values(&self) -> Vec<Vec<f64>> {
        [&self.theta, &self.m].into_iter().chain(&self.f).map(Held::get).collect()
    }
}
