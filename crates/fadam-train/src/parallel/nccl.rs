//! NCCL for what is on GPUs, beside an engine that carries the rest: MPI starts the processes and moves what is small.

use std::sync::Arc;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, anyhow};
use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::DeviceSlice;
use candle_core::cuda_backend::cudarc::nccl::{Comm, Id, ReduceOp};
use candle_core::{
    CpuStorage, CudaDevice, CudaStorage, CustomOp1, DType, Device, Layout, Shape, Tensor,
};

use super::Collective;

/// A rank whose gradients on a CUDA device go through NCCL.
#[derive(Debug)]
pub(super) struct Nccl {
    /// What carries the rest, and says who is who.
    beside: Arc<dyn Collective>,
    /// From the first mean of a tensor on a device on, on the stream of that device.
    comm: Mutex<Option<Arc<Comm>>>,
}

impl Nccl {
    pub(super) fn beside(beside: Arc<dyn Collective>) -> Self {
        Self { beside, comm: Mutex::new(None) }
    }

    /// The communicator; all ranks ask for it at the same time, first.
    fn comm(&self, device: &CudaDevice) -> anyhow::Result<Arc<Comm>> {
        let mut comm = self.comm.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(comm) = &*comm {
            return Ok(comm.clone());
        }
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
        let new = Arc::new(new.map_err(|err| failed("the communicator", err))?);
        Ok(comm.insert(new).clone())
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
        let op = Mean(self.comm(device)?);
        numbers.contiguous()?.apply_op1_no_bwd(&op).context("NCCL")
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
struct Mean(Arc<Comm>);

impl CustomOp1 for Mean {
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
