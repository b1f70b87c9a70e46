//! PyTorch's files of weights, both forms: the zip archive of version 1.6 and later, which candle reads, and the stream of pickles before
//! it, in which the published Inception and EfficientNet-Lite0 are.
//!
//! The old form is, one after another: a magic number, the version 1001, a description of the machine, the state dict, a list of keys
//! (five pickles), and for each key the number of elements, i64, and the elements of one storage. A tensor in the state dict names its
//! storage, with an offset, a shape and strides, which need not be those of a tensor without gaps.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use candle_core::pickle::{Object, Stack, TensorInfo, read_all};
use candle_core::{DType, Device, Result, Tensor, bail};

/// The pickle of 0x1950a86a20f9469cfc6c, with which the old form begins.
const MAGIC: [u8; 15] = *b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

/// The version of the old form.
const VERSION: i64 = 1001;

/// How a zip archive begins.
const ZIP: [u8; 4] = *b"PK\x03\x04";

/// The tensors of a state dict that `torch.save` wrote, by name, on the CPU, in the dtypes of the file.
///
/// Nothing in the file is run: of a pickle only what a tensor is made of is understood.
///
/// # Errors
/// If the file cannot be read, is of neither form, is cut short, or holds something other than tensors; the error has the path.
pub fn read_torch(path: impl AsRef<Path>) -> Result<HashMap<String, Tensor>> {
    let path = path.as_ref();
    let read = || {
        let mut file = BufReader::new(File::open(path)?);
        let mut begin = Vec::new();
        file.by_ref().take(MAGIC.len() as u64).read_to_end(&mut begin)?;
        if begin.starts_with(&ZIP) {
            return Ok(read_all(path)?.into_iter().collect());
        }
        if begin != MAGIC {
            bail!("not a file of torch.save: it begins with {:02x?}", &begin[..begin.len().min(4)]);
        }
        old_form(&mut file)
    };
    read().map_err(|error| error.with_path(path))
}

/// Whether a file begins as one of `torch.save` does.
pub(super) fn is_torch(path: &Path) -> Result<bool> {
    let mut begin = Vec::new();
    let file = File::open(path).map_err(|error| candle_core::Error::from(error).with_path(path))?;
    file.take(MAGIC.len() as u64).read_to_end(&mut begin)?;
    Ok(begin == MAGIC || begin.starts_with(&ZIP))
}

fn pickle(file: &mut BufReader<File>) -> Result<Object> {
    let mut stack = Stack::empty();
    stack.read_loop(file)?;
    stack.finalize()
}

fn old_form(file: &mut BufReader<File>) -> Result<HashMap<String, Tensor>> {
    let version = pickle(file)?.int_or_long()?;
    if version != VERSION {
        bail!("version {version} of torch.save's old form, where {VERSION} is known");
    }
    let Object::Dict(machine) = pickle(file)? else { bail!("no description of the machine") };
    let little = (Object::Unicode("little_endian".into()), Object::Bool(true));
    if !machine.contains(&little) {
        bail!("written on a machine that is not little-endian");
    }
    let infos = state_dict(pickle(file)?)?;
    let storages = storages(file, &infos)?;
    infos.into_iter().map(|info| Ok((info.name.clone(), tensor(&info, &storages)?))).collect()
}

fn state_dict(dict: Object) -> Result<Vec<TensorInfo>> {
    let Object::Dict(entries) = dict else {
        bail!("the file holds no state dict; save model.state_dict() rather than the model")
    };
    let mut infos = Vec::new();
    for (name, value) in entries {
        let shown = format!("{name:?}");
        // What PyTorch notes about versions of modules.
        if name == Object::Unicode("_metadata".into()) {
            continue;
        }
        match value.into_tensor_info(name, Path::new(""))? {
            Some(info) => infos.push(info),
            None => bail!("entry {shown} of the state dict is no tensor"),
        }
    }
    Ok(infos)
}

/// A tensor's storage; candle puts a folder before it.
fn key(info: &TensorInfo) -> &str {
    info.path.trim_start_matches('/')
}

/// The bytes of each storage.
fn storages(file: &mut BufReader<File>, infos: &[TensorInfo]) -> Result<HashMap<String, Vec<u8>>> {
    let dtypes: HashMap<&str, DType> = infos.iter().map(|info| (key(info), info.dtype)).collect();
    let Object::List(keys) = pickle(file)? else { bail!("no list of storages") };
    let mut storages = HashMap::new();
    for name in keys {
        let name = name.unicode()?;
        let Some(dtype) = dtypes.get(name.as_str()) else {
            bail!("storage {name} belongs to no tensor");
        };
        let mut count = [0; 8];
        file.read_exact(&mut count)?;
        let count = u64::try_from(i64::from_le_bytes(count)).ok();
        let size = count.and_then(|count| count.checked_mul(dtype.size_in_bytes() as u64));
        let Some(size) = size else { bail!("storage {name} has an impossible size") };
        let mut bytes = Vec::new();
        // What is not there is not asked for, whatever the size says.
        file.by_ref().take(size).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != size {
            bail!("cut short: storage {name} has {} bytes of {size}", bytes.len());
        }
        storages.insert(name, bytes);
    }
    Ok(storages)
}

/// A tensor without gaps, from its storage.
fn tensor(info: &TensorInfo, storages: &HashMap<String, Vec<u8>>) -> Result<Tensor> {
    let Some(bytes) = storages.get(key(info)) else {
        bail!("{}: its storage {} is not in the file", info.name, key(info));
    };
    let (dims, strides) = (info.layout.dims(), info.layout.stride());
    // In bytes, as candle's reader has it.
    let (start, size) = (info.layout.start_offset(), info.dtype.size_in_bytes());
    let product = |numbers: &[usize]| numbers.iter().try_fold(1, |n: usize, d| n.checked_mul(*d));
    let steps = |(n, stride): (&usize, &usize)| n.saturating_sub(1).checked_mul(*stride);
    let reach = dims.iter().zip(strides).try_fold(1, |n: usize, step| n.checked_add(steps(step)?));
    let end = reach.and_then(|n| n.checked_mul(size)?.checked_add(start));
    let count = product(dims).filter(|&n| n == 0 || end.is_some_and(|end| end <= bytes.len()));
    // Strides of 0, as `expand` makes them, would let a few bytes ask for any amount of memory.
    let Some(count) = count.filter(|n| n.saturating_mul(size) <= bytes.len()) else {
        bail!("{}: shape {dims:?} with strides {strides:?} reaches beyond its storage", info.name);
    };
    let mut gathered = Vec::with_capacity(count * size);
    let mut place = vec![0; dims.len()];
    for _ in 0..count {
        let at: usize = place.iter().zip(strides).map(|(i, s)| i * s).sum();
        gathered.extend_from_slice(&bytes[start + at * size..][..size]);
        for (i, n) in place.iter_mut().zip(dims).rev() {
            *i += 1;
            if *i < *n {
                break;
            }
            *i = 0;
        }
    }
    Tensor::from_raw_buffer(&gathered, info.dtype, dims, &Device::Cpu)
}

#[cfg(test)]
mod tests {
    use candle_core::Layout;

    use super::super::test_support::golden;
    use super::*;

    fn file(name: &str) -> String {
        format!("{}/tests/goldens/{name}", env!("CARGO_MANIFEST_DIR"))
    }

    /// Both forms of one state dict, with a transposed tensor, a part of a storage, a storage that two share, and i64.
    #[test]
    fn both_forms_are_read_whatever_the_strides() {
        let wanted = golden("torch_file.safetensors");
        for name in ["torch_old.pth", "torch_zip.pth"] {
            let found = read_torch(file(name)).unwrap();
            let mut names: Vec<_> = found.keys().collect();
            names.sort();
            assert_eq!(names, ["count", "scalar", "shared.a", "shared.b", "transposed"], "{name}");
            for (key, theirs) in &wanted {
                let ours = &found[key];
                assert_eq!((ours.dtype(), ours.dims()), (theirs.dtype(), theirs.dims()));
                let numbers = |x: &Tensor| {
                    let x = x.flatten_all().unwrap().to_dtype(DType::F64).unwrap();
                    x.to_vec1::<f64>().unwrap()
                };
                assert_eq!(numbers(ours), numbers(theirs), "{name}: {key}");
            }
        }
    }

    /// Of 16 bytes: what reaches beyond them, asks for more than they are, or overflows is refused before memory is taken.
    #[test]
    fn a_tensor_fits_in_its_storage() {
        let storages = HashMap::from([("0".to_owned(), vec![0; 16])]);
        let read = |dims: &[usize], strides: &[usize], start: usize| {
            let info = TensorInfo {
                name: "w".to_owned(),
                dtype: DType::F32,
                layout: Layout::new(dims.into(), strides.to_vec(), start),
                path: "/0".to_owned(),
                storage_size: 4,
            };
            tensor(&info, &storages)
        };
        assert_eq!(read(&[2, 2], &[1, 2], 0).unwrap().dims(), [2, 2]);
        assert_eq!(read(&[4], &[0], 12).unwrap().dims(), [4]);
        assert_eq!(read(&[0, 9], &[9, 1], 0).unwrap().dims(), [0, 9]);
        for (dims, strides, start) in [
            (&[5][..], &[1][..], 0),
            (&[2], &[1], 12),
            (&[5], &[0], 0),
            (&[1 << 40, 2], &[0, 1], 0),
            (&[usize::MAX, 2], &[0, 0], 0),
            (&[2], &[usize::MAX], 0),
        ] {
            let error = read(dims, strides, start).unwrap_err().to_string();
            assert!(error.contains("w: shape") && error.contains("beyond its storage"), "{error}");
        }
    }

    #[test]
    fn bad_files_say_what_and_where() {
        let whole = std::fs::read(file("torch_old.pth")).unwrap();
        let folder = std::env::temp_dir().join(format!("fadam-torch-file-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("bad.pth");
        let mut version = whole.clone();
        version[MAGIC.len() + 3] ^= 1;
        for (bytes, wanted) in [
            (&whole[..whole.len() - 3], "cut short: storage"),
            (&whole[..200], ""),
            (&whole[..9], "not a file of torch.save"),
            (&version[..], "version 1000"),
            (&b"PK\x03\x04 and no archive"[..], ""),
        ] {
            std::fs::write(&path, bytes).unwrap();
            let error = read_torch(&path).unwrap_err().to_string();
            assert!(error.contains(wanted) && error.contains("bad.pth"), "{error}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
        let error = read_torch(&path).unwrap_err().to_string();
        assert!(error.contains("bad.pth"), "{error}");
    }
}
