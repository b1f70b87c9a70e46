//! How the tensors of a step are cut into blocks of threads.
//!
//! A block does a chunk of one tensor: [`TILE`] elements in a row where f is kept element by element, a tile of a
//! matrix where f is factored, or several whole matrices where they are small. A line block does rows or columns
//! of R and C. The partition depends on the shapes alone, so sums are added in the same order every time.

/// Threads of a block, and the rows that a line block does.
pub(crate) const THREADS: u64 = 256;
const TILE_ROWS: u64 = 32;
const TILE_COLUMNS: u64 = 256;
/// Elements of a chunk at most.
const TILE: u64 = TILE_ROWS * TILE_COLUMNS;
/// Columns that a line block does.
const LINE_COLUMNS: u64 = 32;
/// A line block of rows does whole matrices if they have no more rows than this.
const SHORT: u64 = 32;
/// Matrices of no more elements than this share a chunk.
const SMALL: u64 = 4096;

/// Words of what the kernels tell one another of a tensor.
pub(crate) const PLAN: usize = 15;
/// Sums of each chunk.
pub(crate) const SUMS: usize = 4;

/// How f is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Element by element.
    Full { count: u64 },
    /// As row and column sums of `outer` matrices of n × width.
    Factored { outer: u64, n: u64, width: u64 },
}

/// What `step.cu` knows of a tensor from the partition alone: the last words of a tensor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place(pub(crate) [u64; 18]);

/// How tensors are cut into blocks.
#[derive(Debug, Default)]
pub(crate) struct Partition {
    /// The tensor in the high half of a word, its chunk in the low half.
    pub(crate) chunks: Vec<u64>,
    /// The same of line blocks.
    pub(crate) lines: Vec<u64>,
    /// f64s that are held aside.
    pub(crate) scratch: u64,
    pub(crate) places: Vec<Place>,
    any_full: bool,
}

impl Shape {
    /// Elements.
    pub(crate) fn count(self) -> u64 {
        match self {
            Self::Full { count } => count,
            Self::Factored { outer, n, width } => outer * n * width,
        }
    }
}

impl Partition {
    pub(crate) fn new(shapes: &[Shape]) -> Self {
        let mut partition = Self::default();
        for (tensor, shape) in shapes.iter().enumerate() {
            let place = match *shape {
                Shape::Factored { outer, n, width } if shape.count() > 0 => {
                    partition.factored(tensor, outer, n, width)
                }
                _ => partition.full(tensor, shape.count()),
            };
            partition.places.push(place);
        }
        partition
    }

    fn full(&mut self, tensor: usize, count: u64) -> Place {
        self.any_full = true;
        let chunks = count.div_ceil(TILE);
        let first = add(&mut self.chunks, tensor, chunks);
        Place([0, count, 1, 1, count, first, chunks, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    }

    fn factored(&mut self, tensor: usize, outer: u64, n: u64, width: u64) -> Place {
        let small = n * width <= SMALL;
        let (down, across, per) = if small {
            (1, 1, TILE / (n * width))
        } else {
            (n.div_ceil(TILE_ROWS), width.div_ceil(TILE_COLUMNS), 0)
        };
        let chunks = if small { outer.div_ceil(per) } else { outer * down * across };
        let first = add(&mut self.chunks, tensor, chunks);
        let row_lines =
            if n <= SHORT { outer.div_ceil(THREADS / n) } else { outer * n.div_ceil(THREADS) };
        add(&mut self.lines, tensor, row_lines + (outer * width).div_ceil(LINE_COLUMNS));

        let (rows, columns) = (outer * n, outer * width);
        let mut held_aside = |count: u64| {
            let at = self.scratch;
            self.scratch += count;
            at
        };
        Place([
            if small { 2 } else { 1 },
            outer * n * width,
            outer,
            n,
            width,
            first,
            chunks,
            down,
            across,
            per,
            row_lines,
            held_aside(rows), // R after the step
            held_aside(rows), // (R/ΣR)^ρ
            held_aside(columns),
            held_aside(columns),
            held_aside(rows * across), // the sums of each tile
            held_aside(columns * down),
            held_aside(row_lines), // ΣR of each line block
        ])
    }

    /// The launches of a step over `tensors` tensors in order, with their blocks; the last number tells the two
    /// launches of `measure` and those of `apply` apart.
    pub(crate) fn launches(&self, tensors: usize) -> Vec<(Kernel, u64, u64)> {
        let (chunks, lines) = (self.chunks.len() as u64, self.lines.len() as u64);
        let tensors = tensors as u64;
        let all = [
            (Kernel::Open, tensors.div_ceil(THREADS), 0),
            (Kernel::Measure, if self.any_full { chunks } else { 0 }, 0),
            (Kernel::Squares, if lines > 0 { chunks } else { 0 }, 0),
            (Kernel::Lines, lines, 0),
            (Kernel::Factors, lines, 0),
            (Kernel::FinishGradient, tensors, 0),
            (Kernel::Measure, chunks, 1),
            (Kernel::FinishMeasure, tensors, 0),
            (Kernel::Apply, chunks, 0),
            (Kernel::Apply, chunks + lines, 1),
            (Kernel::Close, 1, 0),
        ];
        all.into_iter().filter(|(_, blocks, _)| *blocks > 0).collect()
    }
}

/// Adds the blocks of a tensor to a table; returns where they begin.
fn add(table: &mut Vec<u64>, tensor: usize, blocks: u64) -> u64 {
    let first = table.len() as u64;
    table.extend((0..blocks).map(|block| (tensor as u64) << 32 | block));
    first
}

/// The kernels of `step.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kernel {
    Open,
    Measure,
    Squares,
    Lines,
    Factors,
    FinishGradient,
    FinishMeasure,
    Apply,
    Close,
}
