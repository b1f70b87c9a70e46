//! Every golden case, at every step, of the fused step and of the reference.

#[allow(dead_code, reason = "each test program uses some of it")]
#[path = "common/golden.rs"]
mod golden;

use candle_core::{DType, Device};
use fadam_core::Backend;
use golden::goldens;

fn all(dtype: DType) {
    for golden in goldens() {
        for backend in [Backend::Fused, Backend::Reference] {
            golden.check(backend, &Device::Cpu, dtype);
        }
    }
}

#[test]
fn all_goldens_f64() {
    all(DType::F64);
}

#[test]
fn all_goldens_f32() {
    all(DType::F32);
}
