//! Where to compute.

use std::fmt;
use std::str::FromStr;

use candle_core::Device;
use candle_core::utils::{cuda_is_available, metal_is_available};

use crate::Error;

/// The value of `--device`: `cpu`, `cuda` or `cuda:1`, `metal` or `metal:1`.
///
/// ```
/// use fadam_train::DeviceChoice;
/// assert_eq!("cuda:1".parse(), Ok(DeviceChoice::Cuda(1)));
/// assert_eq!(DeviceChoice::Metal(0).to_string(), "metal:0");
/// assert!(DeviceChoice::Cpu.open()?.is_cpu());
/// # Ok::<(), fadam_train::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The processor.
    #[default]
    Cpu,
    /// The CUDA device of that number.
    Cuda(usize),
    /// The Metal device of that number.
    Metal(usize),
}

impl DeviceChoice {
    /// The candle device.
    ///
    /// # Errors
    ///
    /// [`Error::CommandLine`] when the program was built without support for it, or the machine does
    /// not have it.
    pub fn open(self) -> Result<Device, Error> {
        let failed = |message: String| Error::argument(format!("--device {self}"), message);
        let not_compiled = |feature| {
            failed(format!("this program was built without it; build with `--features {feature}`"))
        };
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda(_) if !cuda_is_available() => Err(not_compiled("cuda")),
            Self::Metal(_) if !metal_is_available() => Err(not_compiled("metal")),
            Self::Cuda(i) => Device::new_cuda(i).map_err(|err| failed(err.to_string())),
            Self::Metal(i) => Device::new_metal(i).map_err(|err| failed(err.to_string())),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(i) => write!(f, "cuda:{i}"),
            Self::Metal(i) => write!(f, "metal:{i}"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, index) = text.split_once(':').unwrap_or((text, "0"));
        let index = index.parse::<usize>();
        match (kind, index) {
            ("cpu", _) if text == "cpu" => Ok(Self::Cpu),
            ("cuda", Ok(i)) => Ok(Self::Cuda(i)),
            ("metal", Ok(i)) => Ok(Self::Metal(i)),
            _ => Err(format!("no such device: {text}; cpu, cuda, cuda:I, metal and metal:I are")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_compiled_in_says_how_to_get_it() {
        if !cuda_is_available() {
            let err = DeviceChoice::Cuda(0).open().unwrap_err().to_string();
            assert!(err.starts_with("--device cuda:0: "), "{err}");
            assert!(err.contains("--features cuda"), "{err}");
        }
    }

    #[test]
    fn names_of_no_device_are_refused() {
        for text in ["", "gpu", "cpu:0", "cuda:", "cuda:x", "cuda:-1"] {
            assert!(text.parse::<DeviceChoice>().is_err(), "{text}");
        }
    }
}
