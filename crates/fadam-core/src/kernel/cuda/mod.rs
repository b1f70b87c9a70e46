//! The fused step on a CUDA device: many tensors in a dozen launches, without a look from the host.
//!
//! What a step finds that is not finite stays on the device until [`DeviceStep::check`] asks for it; such a step has
//! changed nothing. `step.cu` is the step itself and lists its launches, `table` how tensors are cut into blocks,
//! `session` what the host does whatever runs the kernels, `device` the CUDA device that does. All but the last is
//! tested on any machine: `tests/cuda_source.rs` compiles `step.cu` for the host.

mod device;
mod entry;
mod session;
mod table;
#[cfg(test)]
mod tests;

use candle_core::{CudaDevice, DType, Tensor, Var};

use crate::algorithm::Fim;
use crate::report::Measures;
use crate::terms::Estimate;
use crate::{Error, Result};
use device::{Cuda, Place};
use entry::{Addresses, Dtype, Entry, Squared};
pub(crate) use entry::{Kind, Numbers};
use session::Session;
pub(crate) use session::{Checked, OnBad};
use table::Shape;

/// One step of one parameter. All tensors are contiguous and on the device; g, the auxiliary gradient and s are in the
/// dtype of θ, m, f, R, C and the squares f64 for f64 parameters and f32 for others. No two of θ, m, f, R, C and g may
/// share their storage, of one parameter or of two.
#[derive(Clone, Copy)]
pub(crate) struct Job<'a> {
    pub(crate) name: &'a str,
    pub(crate) theta: &'a Var,
    pub(crate) m: &'a Tensor,
    pub(crate) f: Fim<&'a Tensor>,
    pub(crate) g: &'a Tensor,
    pub(crate) estimate: Estimate<&'a Tensor>,
    pub(crate) auxiliary: Option<&'a Tensor>,
    pub(crate) numbers: Numbers,
}

/// The steps of one optimizer on one CUDA device.
///
/// With candle's default stream, which is one for each thread, all calls belong on the thread that computes the
/// gradients.
pub(crate) struct DeviceStep {
    device: CudaDevice,
    session: Session<Cuda>,
}

impl std::fmt::Debug for DeviceStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceStep").field("device", &self.device).finish_non_exhaustive()
    }
}

impl DeviceStep {
    /// Compiles the kernels, the first time in a process.
    ///
    /// # Errors
    /// If NVRTC or the driver fails.
    pub(crate) fn new(device: &CudaDevice, on_bad: OnBad) -> Result<Self> {
        let session = Session::new(Cuda::new(device)?, on_bad)?;
        Ok(Self { device: device.clone(), session })
    }

    /// Launches one step of all jobs and returns at once. Of several bad parameters the one that will be named is the
    /// first in the order in which they first took part in a step.
    ///
    /// # Errors
    /// If a tensor is not as [`Job`] says, before anything is launched; if CUDA fails.
    pub(crate) fn step(&mut self, jobs: &[Job<'_>]) -> Result<()> {
        let entries: Vec<Entry> = self.entries(jobs)?;
        self.session.step(&entries)?;
        if self.device.cuda_stream().context().is_managing_stream_synchronization() {
            // Asked for again, the tensors are marked as in use until this step is done.
            self.entries(jobs)?;
        }
        Ok(())
    }

    /// Waits for all steps; returns which of them since the last check were cancelled, and why.
    ///
    /// # Errors
    /// If CUDA fails: also of an earlier step.
    pub(crate) fn check(&mut self) -> Result<Checked> {
        Ok(self.session.check()?)
    }

    /// Waits for all steps; returns what the last one measured, in the order of its jobs: not always numbers, if it was
    /// cancelled.
    ///
    /// # Errors
    /// If CUDA fails: also of an earlier step.
    pub(crate) fn measures(&mut self) -> Result<Vec<Measures>> {
        let measured = self.session.measures()?.into_iter().map(|measured| {
            let [rms_g, rms_natural, rms_decay, rms_auxiliary] = measured.rms;
            Measures { rms_g, eps_hat: measured.eps_hat, rms_natural, rms_decay, rms_auxiliary }
        });
        Ok(measured.collect())
    }

    fn entries<'a>(&self, jobs: &[Job<'a>]) -> Result<Vec<Entry<'a>>> {
        jobs.iter().map(|job| job.entry(&self.device)).collect()
    }
}

impl<'a> Job<'a> {
    fn entry(&self, device: &CudaDevice) -> Result<Entry<'a>> {
        let (dtype, state) = match self.theta.dtype() {
            DType::F32 => (Dtype::F32, DType::F32),
            DType::BF16 => (Dtype::BF16, DType::F32),
            DType::F16 => (Dtype::F16, DType::F32),
            DType::F64 => (Dtype::F64, DType::F64),
            dtype => return Err(Error::UnsupportedDType { name: self.name.to_owned(), dtype }),
        };
        let count = self.theta.elem_count();
        let own = Place { device, dtype: self.theta.dtype(), count };
        let of_state = |count| Place { device, dtype: state, count };
        let mut addresses = Addresses {
            theta: own.write(self.theta)?,
            m: of_state(count).write(self.m)?,
            g: own.read(self.g)?,
            auxiliary: self.auxiliary.map_or(Ok(0), |a| own.read(a))?,
            ..Addresses::default()
        };
        let shape = match (self.f, self.theta.dims()) {
            (Fim::Factored { r, c }, [leading @ .., n, width]) => {
                let outer: usize = leading.iter().product();
                addresses.r = of_state(outer * n).write(r)?;
                addresses.c = of_state(outer * width).write(c)?;
                let [outer, n, width] = [outer, *n, *width].map(|x| x as u64);
                Shape::Factored { outer, n, width }
            }
            (Fim::Factored { .. }, _) => {
                return Err(candle_core::Error::msg("a factored FIM of no matrix").into());
            }
            (Fim::Full(f), _) => {
                addresses.f = of_state(count).write(f)?;
                Shape::Full { count: count as u64 }
            }
        };
        let gamma = self.numbers.gamma;
        let squares = match self.estimate {
            Estimate::OfGradient => Squared::OfGradient,
            Estimate::Given(squares) => {
                addresses.squares = of_state(count).read(squares)?;
                Squared::Given(gamma * gamma)
            }
            Estimate::Sampled(sampled, batch) => {
                addresses.squares = own.read(sampled)?;
                Squared::Sampled(batch * gamma * gamma)
            }
        };
        Ok(Entry { name: self.name, dtype, shape, addresses, squares, numbers: self.numbers })
    }
}

impl Checked {
    /// The first bad parameter as an error; none if nothing was cancelled.
    pub(crate) fn error(&self) -> Option<Error> {
        let (name, tensor) = self.first.clone()?;
        Some(match tensor {
            "g" => Error::NonFiniteGradient { name },
            "squares" => Error::NegativeSquares { name },
            tensor => Error::NonFiniteUpdate { name, tensor },
        })
    }
}
