//! Compiles the kernels of moexperts-cuda, and those of this crate's tests, for the host.

use std::{
    collections::hash_map::DefaultHasher,
    env, fs,
    hash::{Hash, Hasher},
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

/// Files that make a module; the last gives it its name.
struct Module {
    name: String,
    files: Vec<PathBuf>,
}

impl Module {
    /// The name of its namespace and its object.
    fn identifier(&self) -> String {
        self.name.replace(|c: char| !c.is_ascii_alphanumeric(), "_")
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

macro_rules! modules {
    ($($module:ident = [$($file:literal),*] $(, hopper = $hopper:literal)?;)*) => {
        /// The files of each module of moexperts-cuda.
        const MODULES: &[&[&str]] = &[$(&[$($file),*]),*];
    };
}
include!("../moexperts-cuda/src/modules.rs");

/// The modules of moexperts-cuda, whose kernels are in `folder`.
fn listed(folder: &Path) -> Vec<Module> {
    let module = |files: &&[&str]| Module {
        name: (*files.last().expect("a module has a file")).to_owned(),
        files: files.iter().map(|name| folder.join(name)).collect(),
    };
    MODULES.iter().map(module).collect()
}

/// A module for each kernel file of the tests.
fn of_tests(folder: &Path) -> Vec<Module> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|e| e == "cu")).collect();
    files.sort();
    let name = |file: &PathBuf| file.file_name().map(|n| n.to_string_lossy().into_owned());
    files
        .into_iter()
        .map(|file| Module { name: name(&file).unwrap_or_default(), files: vec![file] })
        .collect()
}

fn compiler() -> cc::Build {
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .debug(false)
        .pic(true)
        .warnings(false)
        // Kernels read memory as several types; a product and a sum are one operation only by fmaf.
        .flag("-fno-strict-aliasing")
        .flag("-ffp-contract=off")
        .flag("-ftls-model=initial-exec")
        .flag("-w");
    build
}

/// The compiler of kernels: undefined behaviour calls `emulated/undefined.cpp`, and variables that are
/// not initialised are not 0.
fn kernel_compiler() -> cc::Build {
    let mut build = compiler();
    build
        .flag(
            "-fsanitize=alignment,shift-exponent,bounds,integer-divide-by-zero,signed-integer-overflow",
        )
        .flag("-fno-sanitize-recover=all")
        .flag_if_supported("-ftrivial-auto-var-init=pattern");
    build
}

/// A file to compile, and all text that it includes.
struct Source<'a> {
    path: PathBuf,
    text: String,
    compiler: &'a cc::Tool,
}

impl Source<'_> {
    /// The object, compiled unless the same text was compiled the last time; the output of the compiler if
    /// that fails.
    fn object(&self) -> Result<PathBuf, String> {
        let out = out_dir();
        let name = self.path.file_stem().expect("a source has a name").to_string_lossy();
        let (object, stamp) = (out.join(format!("{name}.o")), out.join(format!("{name}.stamp")));
        let mut hasher = DefaultHasher::new();
        (&self.text, self.compiler.path(), self.compiler.args()).hash(&mut hasher);
        let hash = hasher.finish().to_string();
        if object.exists() && fs::read_to_string(&stamp).is_ok_and(|last| last == hash) {
            return Ok(object);
        }
        let mut command = self.compiler.to_command();
        let output = command.arg("-c").arg(&self.path).arg("-o").arg(&object).output();
        let output = output.map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        write(&stamp, &hash);
        Ok(object)
    }
}

fn out_dir() -> PathBuf {
    PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo"))
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// The objects of some files, in their order.
fn objects(sources: &[Source<'_>]) -> Vec<Result<PathBuf, String>> {
    let jobs = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1);
    let next = AtomicUsize::new(0);
    let objects: Vec<OnceLock<_>> = sources.iter().map(|_| OnceLock::new()).collect();
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(i) = Some(next.fetch_add(1, Relaxed)).filter(|i| *i < sources.len())
                {
                    objects[i].get_or_init(|| sources[i].object());
                }
            });
        }
    });
    objects.into_iter().flat_map(OnceLock::into_inner).collect()
}

/// The source of a module: its files in a namespace, after the language and the instructions.
fn source<'a>(
    module: &Module,
    folders: &Folders,
    headers: &str,
    compiler: &'a cc::Tool,
) -> Source<'a> {
    let identifier = module.identifier();
    let mut source = format!(
        "#include \"{}\"\n#define EMULATOR_MODULE \"{}\"\nnamespace module_{identifier} {{\n",
        folders.emulated.join("cuda.h").display(),
        module.name,
    );
    let mut text = headers.to_owned();
    let before = [folders.kernels.join("prelude.cuh"), folders.emulated.join("ptx.cuh")];
    for file in before.iter().chain(&module.files) {
        source += &format!("#include \"{}\"\n", file.display());
        text += &read(file);
    }
    source += &format!("}}\nextern \"C\" void emulator_module_{identifier}() {{}}\n");
    let path = out_dir().join(format!("{identifier}.cpp"));
    write(&path, &source);
    Source { path, text: text + &source, compiler }
}

/// A source that names each module, so that the linker takes it, and that replaces the modules that do
/// not compile by ones without kernels, so that work on others is not held up.
fn anchors(modules: &[Module], broken: impl Iterator<Item = usize>, folders: &Folders) -> String {
    let mut anchors = String::new();
    for module in modules {
        anchors += &format!("extern \"C\" void emulator_module_{}();\n", module.identifier());
    }
    anchors += "extern \"C\" void emulator_modules() {\n";
    for module in modules {
        anchors += &format!("    emulator_module_{}();\n", module.identifier());
    }
    anchors += "}\n";
    anchors += &format!("#include \"{}\"\n", folders.emulated.join("runtime.h").display());
    for index in broken {
        let (identifier, name) = (modules[index].identifier(), &modules[index].name);
        anchors += &format!(
            "extern \"C\" void emulator_module_{identifier}() {{}}\n\
             static const emulator::Kernel broken_{identifier}(\"\", \"{name}\", 0, 0, nullptr);\n",
        );
    }
    anchors
}

struct Folders {
    /// The runtime, in C++.
    emulated: PathBuf,
    /// The kernels of moexperts-cuda.
    kernels: PathBuf,
}

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let cuda = here.join("../moexperts-cuda");
    let folders = Folders { emulated: here.join("emulated"), kernels: cuda.join("kernels") };
    let (list, test_kernels) = (cuda.join("src/modules.rs"), here.join("tests/kernels"));
    for path in [&folders.emulated, &folders.kernels, &list, &test_kernels] {
        println!("cargo:rerun-if-changed={}", path.display());
    }

    let mut modules = listed(&folders.kernels);
    modules.extend(of_tests(&test_kernels));
    let headers = ["cuda.h", "runtime.h", "block.h", "switch.h", "tensor_map.h"];
    let headers: String = headers.map(|name| read(&folders.emulated.join(name))).concat();
    let (compiler, kernel_compiler) = (compiler().get_compiler(), kernel_compiler().get_compiler());

    // Modules and the runtime are compiled side by side; the module names follow, as they depend on both.
    let of_module = |module| source(module, &folders, &headers, &kernel_compiler);
    let mut sources: Vec<Source<'_>> = modules.iter().map(of_module).collect();
    for name in ["block.cpp", "copies.cpp", "products.cpp", "launch.cpp", "undefined.cpp"] {
        let path = folders.emulated.join(name);
        let text = headers.clone() + &read(&path);
        sources.push(Source { path, text, compiler: &compiler });
    }
    let mut compiled = objects(&sources);
    let runtime = compiled.split_off(modules.len());

    let broken = (0..modules.len()).filter(|&index| compiled[index].is_err());
    let text = anchors(&modules, broken, &folders);
    let path = out_dir().join("modules.cpp");
    write(&path, &text);
    let named = Source { path, text: headers + &text, compiler: &compiler };

    for errors in compiled.iter().filter_map(|object| object.as_ref().err()) {
        for line in errors.lines().filter(|line| line.contains("error:")).take(8) {
            println!("cargo:warning={line}");
        }
    }
    let mut archive = self::compiler();
    archive.objects(compiled.into_iter().flatten());
    for object in runtime.into_iter().chain([named.object()]) {
        archive.object(object.unwrap_or_else(|errors| panic!("{errors}")));
    }
    archive.compile("moexperts_emulated");
    // Threads of the host.
    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo:rustc-link-lib=pthread");
    }
}
