//! A CUDA device as what a session runs on, and where candle's tensors lie on it.

use std::cell::Cell;
use std::sync::{Arc, OnceLock};

use candle_core::cuda_backend::{CudaDevice, CudaStorage, CudaStorageSlice, WrapErr, cudarc};
use candle_core::{CpuStorage, DType, InplaceOp1, Layout, Result, Storage, Tensor};
use cudarc::driver::{
    CudaFunction, CudaSlice, CudaStream, DevicePtr, DevicePtrMut, LaunchConfig, PushKernelArg,
};
use cudarc::nvrtc::compile_ptx;

use super::session::{ARGS, Machine};
use super::table::{Kernel, THREADS};

const SOURCE: &str = include_str!("step.cu");

/// The names of the kernels, in the order of [`Kernel`].
const NAMES: [&str; 9] = [
    "fadam_open",
    "fadam_measure",
    "fadam_squares",
    "fadam_lines",
    "fadam_factors",
    "fadam_finish_gradient",
    "fadam_finish_measure",
    "fadam_apply",
    "fadam_close",
];

/// `step.cu` as PTX, compiled once in a process, which takes a few seconds. For NVRTC's default architecture, the
/// oldest it knows: the driver compiles it further for the device at hand, which NVRTC itself may be too old to know.
fn ptx() -> Result<&'static str> {
    static PTX: OnceLock<String> = OnceLock::new();
    if let Some(ptx) = PTX.get() {
        return Ok(ptx);
    }
    let compiled = compile_ptx(SOURCE).w()?.to_src();
    Ok(PTX.get_or_init(|| compiled))
}

/// A device with the kernels on it.
pub(super) struct Cuda {
    stream: Arc<CudaStream>,
    kernels: [CudaFunction; NAMES.len()],
}

impl Cuda {
    pub(super) fn new(device: &CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream();
        let module = stream.context().load_module(ptx()?.into()).w()?;
        let kernels: Result<Vec<_>> =
            NAMES.iter().map(|name| module.load_function(name).w()).collect();
        let kernels = kernels?.try_into().expect("a function for each name");
        Ok(Self { stream, kernels })
    }
}

impl Machine for Cuda {
    type Buffer = CudaSlice<u64>;
    type Error = candle_core::Error;

    fn zeros(&mut self, words: usize) -> Result<Self::Buffer> {
        self.stream.alloc_zeros(words).w()
    }

    fn address(&self, buffer: &Self::Buffer) -> u64 {
        // Used on this stream alone, so there is nothing to wait for and nothing to record.
        buffer.device_ptr(&self.stream).0
    }

    fn upload(&mut self, words: &[u64], to: &mut Self::Buffer) -> Result<()> {
        self.stream.memcpy_htod(words, to).w()
    }

    fn download(&mut self, from: &Self::Buffer) -> Result<Vec<u64>> {
        let words = self.stream.clone_dtoh(from).w()?;
        self.stream.synchronize().w()?;
        Ok(words)
    }

    #[allow(
        unsafe_code,
        reason = "a kernel is launched on addresses, which the compiler cannot check"
    )]
    fn launch(&mut self, kernel: Kernel, blocks: u64, args: [u64; ARGS]) -> Result<()> {
        let blocks = u32::try_from(blocks)
            .map_err(|_| candle_core::Error::msg("fadam-step: too many elements for one launch"))?;
        let config = LaunchConfig {
            grid_dim: (blocks, 1, 1),
            block_dim: (THREADS as u32, 1, 1),
            shared_mem_bytes: 0,
        };
        let mut launch = self.stream.launch_builder(&self.kernels[kernel as usize]);
        launch.arg(&args);
        // SAFETY: `args` are the words of the one argument that every kernel takes, `Args`. The addresses in it are of
        // buffers of the session, as large as its partition needs; those in its table of tensors are of tensors that
        // `DeviceStep::step` has found to be on this device, contiguous, and of the dtype and the number of elements
        // that the table says. All of them are freed, if at all, on this stream, behind this launch.
        unsafe { launch.launch(config) }.w()?;
        Ok(())
    }
}

/// Where a contiguous tensor of that dtype and of `count` elements lies on the device.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) device: &'a CudaDevice,
    pub(super) dtype: DType,
    pub(super) count: usize,
}

impl Place<'_> {
    /// Of a tensor that a step reads. If the context has several streams, this one waits for what the others write there.
    pub(super) fn read(&self, tensor: &Tensor) -> Result<u64> {
        let (storage, layout) = tensor.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else {
            candle_core::bail!("fadam-step: expected a tensor on CUDA")
        };
        self.check(storage, layout)?;
        let stream = self.device.cuda_stream();
        let start = match &storage.slice {
            CudaStorageSlice::F64(slice) => slice.device_ptr(&stream).0,
            CudaStorageSlice::F32(slice) => slice.device_ptr(&stream).0,
            CudaStorageSlice::BF16(slice) => slice.device_ptr(&stream).0,
            CudaStorageSlice::F16(slice) => slice.device_ptr(&stream).0,
            _ => candle_core::bail!("fadam-step: expected a tensor of floating point"),
        };
        Ok(start + self.offset(layout))
    }

    /// Of a tensor that a step writes. If the context has several streams, this one waits for what the others do there,
    /// and what this one has done so far is what the others will wait for: after a step, ask once more.
    pub(super) fn write(&self, tensor: &Tensor) -> Result<u64> {
        let op = Write { place: *self, found: Cell::new(0) };
        tensor.inplace_op1(&op)?;
        Ok(op.found.get())
    }

    fn check(&self, storage: &CudaStorage, layout: &Layout) -> Result<()> {
        let dtype = candle_core::backend::BackendStorage::dtype(storage);
        let fits = storage.device.id() == self.device.id()
            && dtype == self.dtype
            && layout.is_contiguous()
            && layout.shape().elem_count() == self.count;
        if fits {
            return Ok(());
        }
        candle_core::bail!(
            "fadam-step: expected {} contiguous elements of {:?} on {:?}, got {dtype:?} {layout:?} on {:?}",
            self.count,
            self.dtype,
            self.device,
            storage.device,
        )
    }

    fn offset(&self, layout: &Layout) -> u64 {
        (layout.start_offset() * self.dtype.size_in_bytes()) as u64
    }
}

/// Finds the address as an op in place, which is how candle lends a storage to write to.
struct Write<'a> {
    place: Place<'a>,
    found: Cell<u64>,
}

impl InplaceOp1 for Write<'_> {
    fn name(&self) -> &'static str {
        "fadam-step"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> Result<()> {
        candle_core::bail!("fadam-step: expected a tensor on CUDA")
    }

    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> Result<()> {
        self.place.check(storage, layout)?;
        let stream = self.place.device.cuda_stream();
        let start = match &mut storage.slice {
            CudaStorageSlice::F64(slice) => slice.device_ptr_mut(&stream).0,
            CudaStorageSlice::F32(slice) => slice.device_ptr_mut(&stream).0,
            CudaStorageSlice::BF16(slice) => slice.device_ptr_mut(&stream).0,
            CudaStorageSlice::F16(slice) => slice.device_ptr_mut(&stream).0,
            _ => candle_core::bail!("fadam-step: expected a tensor of floating point"),
        };
        self.found.set(start + self.place.offset(layout));
        Ok(())
    }
}
