//! NCCL for what is on GPUs, beside an engine that carries the rest: MPI starts the processes and moves what is small.

use std::sync::Arc;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, anyhow};
use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::nccl::{Comm, Id, ReduceOp};
use candle_core::{
    CpuStorage, CudaDevice, CudaStorage, CustomOp1, DType, Device, Layout, Shape, Tensor,
};

use super::Collective;

/// A rank whose gradients on a CUDA device go through NCCL, beside an engine that does the rest: what [`join`](super::join) gives
/// where there is MPI too.
#[derive(Debug)]
pub struct Nccl {
    /// What carries the rest, and says who is who.
    beside: Arc<dyn Collective>,
    /// From the first mean of a tensor on a device on, on the stream of that device.
    comm: Mutex<Option<Communicator>>,
}

/// A communicator, which is only used under the lock.
#[derive(Debug)]
struct Communicator(Comm);

// SAFETY: a communicator of NCCL belongs to no thread; calls on one must not be concurrent, and the only owner is the mutex of `Nccl`, under
// which every call is made. (The device has to be current in the thread that calls: allocating the result makes it so.)
#[allow(unsafe_code)]
unsafe impl Send for Communicator {}

impl Nccl {
    /// NCCL among the ranks of `beside`. It begins with the first tensor on a device.
    pub fn beside(beside: Arc<dyn Collective>) -> Self {
        Self { beside, comm: Mutex::new(None) }
    }

    /// A new communicator; all ranks ask for it at the same time.
    fn start(&self, device: &CudaDevice) -> anyhow::Result<Communicator> {
        let failed = |what: &str, err| anyhow!("NCCL: {what}: {err:?}");
        let mut id = Vec::new();
        if self.rank() == 0 {
            let new = Id::new().map_err(|err| failed("no unique id", err))?;
            id.extend(new.internal().iter().map(|byte| byte.cast_unsigned()));
        }
        let id = self.beside.broadcast(&id)?;
        let id: [u8; 128] = id.try_into().map_err(|_| anyhow!("NCCL: an id of another length"))?;
        let id = Id::uninit(id.map(u8::cast_signed));
        let new = Comm::from_rank(device.cuda_stream(), self.rank(), self.world(), id);
        Ok(Communicator(new.map_err(|err| failed("the communicator", err))?))
    }
}

impl Collective for Nccl {
    fn rank(&self) -> usize {
        self.beside.rank()
    }

    fn world(&self) -> usize {
        self.beside.world()
    }

    fn engine(&self) -> &'static str {
        "MPI and NCCL"
    }

    fn mean(&self, numbers: Tensor) -> anyhow::Result<Tensor> {
        let Device::Cuda(device) = numbers.device() else { return self.beside.mean(numbers) };
        let mut comm = self.comm.lock().unwrap_or_else(PoisonError::into_inner);
        let comm = match &mut *comm {
            Some(comm) => comm,
            none => none.insert(self.start(device)?),
        };
        numbers.contiguous()?.apply_op1_no_bwd(&Mean(&comm.0)).context("NCCL")
    }

    fn all_gather(&self, mine: &[u8]) -> anyhow::Result<Vec<u8>> {
        self.beside.all_gather(mine)
    }

    fn gather(&self, mine: &[u8]) -> anyhow::Result<Vec<Vec<u8>>> {
        self.beside.gather(mine)
    }

    fn broadcast(&self, mine: &[u8]) -> anyhow::Result<Vec<u8>> {
        self.beside.broadcast(mine)
    }

    fn barrier(&self) -> anyhow::Result<()> {
        self.beside.barrier()
    }

    fn abort(&self, code: u8) {
        self.beside.abort(code);
    }
}

/// `Σ_r x_r / W` on the stream of the device: nothing is waited for on the host.
struct Mean<'c>(&'c Comm);

impl CustomOp1 for Mean<'_> {
    fn name(&self) -> &'static str {
        "nccl-mean"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        candle_core::bail!("NCCL has no use for tensors on the host")
    }

    fn cuda_fwd(
        &self,
        storage: &CudaStorage,
        layout: &Layout,
    ) -> candle_core::Result<(CudaStorage, Shape)> {
        let (start, end) = layout
            .contiguous_offsets()
            .ok_or_else(|| candle_core::Error::msg("a tensor that is not contiguous"))?;
        let device = storage.device();
        let failed = |err| candle_core::Error::msg(format!("all_reduce: {err:?}"));
        let mean = match storage.dtype() {
            DType::F64 => {
                let numbers = storage.as_cuda_slice::<f64>()?.slice(start..end);
                let mut mean = device.cuda_stream().alloc_zeros::<f64>(numbers.len()).w()?;
                self.0.all_reduce(&numbers, &mut mean, &ReduceOp::Avg).map_err(failed)?;
                CudaStorage::wrap_cuda_slice(mean, device.clone())
            }
            _ => {
                let numbers = storage.as_cuda_slice::<f32>()?.slice(start..end);
                let mut mean = device.cuda_stream().alloc_zeros::<f32>(numbers.len()).w()?;
                self.0.all_reduce(&numbers, &mut mean, &ReduceOp::Avg).map_err(failed)?;
                CudaStorage::wrap_cuda_slice(mean, device.clone())
            }
        };
        Ok((mean, layout.shape().clone()))
    }
}
