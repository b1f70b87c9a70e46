//! What a state file holds, taken as a parameter keeps it.

use candle_core::{DType, Device, Tensor};

use crate::Error;
use crate::algorithm::State;
use crate::kernel::{Code, Noise, Stored, Task};
use crate::math::{is_finite, is_negative};
use crate::param::Param;
use crate::tensor_file::{Parsed, TensorFile, same, same_shape};

/// Whose the tensors are that those of a file are compared with.
const OWNER: &str = "this optimizer's";
const HAS: &str = "this optimizer's has";

/// What a file holds of a parameter.
pub(crate) struct Loaded {
    pub(crate) t: u64,
    pub(crate) state: State<Stored>,
    pub(crate) theta: Stored,
}

/// Takes what is kept of a parameter, as the parameter keeps it.
pub(super) fn take_param(file: &mut TensorFile, p: &Param) -> Parsed<Loaded> {
    let t = file.take(&format!("{}.t", p.name), &Device::Cpu)?;
    let t = t.to_scalar::<i64>().ok().and_then(|t| u64::try_from(t).ok());
    let t = t.ok_or_else(|| format!("\"{}.t\" is no step count (a 0-d i64, 0 or more)", p.name))?;
    // The first thing that is wrong is said; `map` only knows the errors of this crate.
    let mut wrong = None;
    let state = p.state.map(|kind, like| {
        let key = format!("{}.{kind}", p.name);
        let noise = Noise::new(&p.name, t);
        Ok(take_numbers(file, (&key, kind), like, &p.tasks, noise).unwrap_or_else(|reason| {
            wrong.get_or_insert(reason);
            like.clone()
        }))
    });
    let state = state.map_err(|e| e.to_string())?;
    if let Some(reason) = wrong {
        return Err(reason);
    }
    let theta = match &p.theta {
        Stored::Compensated { high, low } => {
            let key = format!("{}.theta.low", p.name);
            let low = if file.tensors.contains_key(&key) {
                let low = {
                    let found = file.take(&key, low.device())?;
                    same(&key, &found, low, OWNER)?;
                    found
                };
                if !is_finite(&low).map_err(|e| e.to_string())? {
                    return Err(format!("{key:?} is not finite"));
                }
                low
            } else {
                low.zeros_like().map_err(|e| e.to_string())? // nothing was rounded away
            };
            Stored::Compensated { high: high.clone(), low }
        }
        other => {
            file.tensors.remove(&format!("{}.theta.low", p.name));
            other.clone()
        }
    };
    Ok(Loaded { t, state, theta })
}

/// Numbers as `like` keeps them, converted if the file keeps them otherwise.
fn take_numbers(
    file: &mut TensorFile,
    (key, kind): (&str, &str),
    own: &Stored,
    tasks: &[Task],
    noise: Noise,
) -> Parsed<Stored> {
    let candle = |e: Error| format!("{key:?}: {e}");
    let shape = own.shaped();
    let numbers = if file.tensors.contains_key(&format!("{key}.codes")) {
        let blocks = take_blocks(file, (key, kind), shape, tasks)?;
        if matches!(own, Stored::Blocks { .. }) {
            return Ok(blocks);
        }
        blocks.decode(tasks).map_err(candle)?
    } else {
        let found = file.take(key, shape.device())?;
        same_shape(key, &found, shape, HAS)?;
        if !found.dtype().is_float() || !is_finite(&found).map_err(candle)? {
            return Err(format!("{key:?} is not finite, or no float"));
        }
        found
    };
    // In its own dtype, and in that which it is to have here.
    let here = numbers.to_dtype(own.range_dtype()).map_err(|e| candle(e.into()))?;
    if !is_finite(&here).map_err(candle)? {
        return Err(format!("{key:?} is beyond the range of {:?}", own.range_dtype()));
    }
    if kind != "m" && is_negative(&numbers).map_err(candle)? {
        return Err(format!("{key:?} is negative somewhere: no Fisher information"));
    }
    if let Stored::Plain(x) | Stored::Stochastic(x) = own
        && x.dtype() == numbers.dtype()
    {
        return own.map(|_, _| Ok(numbers.clone()));
    }
    let new = own.map(|_, tensor| tensor.copy()).map_err(|e| candle(e.into()))?;
    new.replaced(&numbers, tasks, noise, kind).map_err(candle)
}

/// 8-bit numbers with the scales of their blocks.
fn take_blocks(
    file: &mut TensorFile,
    (key, kind): (&str, &str),
    shaped: &Tensor,
    tasks: &[Task],
) -> Parsed<Stored> {
    let code = if kind == "m" { Code::Signed } else { Code::Positive };
    let (codes_key, scales_key) = (format!("{key}.codes"), format!("{key}.scales"));
    let codes = file.take(&codes_key, &Device::Cpu)?;
    same_shape(&codes_key, &codes, shaped, HAS)?;
    let scales = file.take(&scales_key, &Device::Cpu)?;
    let blocks = tasks.last().map_or(0, |task| task.blocks().end);
    let finite = is_finite(&scales).map_err(|e| format!("{scales_key:?}: {e}"))?;
    if codes.dtype() != DType::U8 || scales.dtype() != DType::F32 || !finite {
        return Err(format!("{key:?} is no 8-bit state: u8 codes and finite f32 scales"));
    }
    if scales.dims() != [blocks] {
        let found = scales.dims();
        return Err(format!("{scales_key:?} has shape {found:?}, this optimizer's has [{blocks}]"));
    }
    let powers = scales.to_vec1::<f32>().unwrap_or_default();
    if !powers.iter().all(|x| x.is_normal() && x.to_bits() & 0x807f_ffff == 0) {
        return Err(format!("{scales_key:?} are not all powers of two"));
    }
    Ok(Stored::Blocks { codes, scales, code })
}
