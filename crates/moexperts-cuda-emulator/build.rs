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

/// Files that make a module, the last being the one it is called by.
struct Module {
    name: String,
    files: Vec<PathBuf>,
}

impl Module {
    /// What its namespace and its object are called.
    fn identifier(&self) -> String {
        self.name.replace(|c: char| !c.is_ascii_alphanumeric(), "_")
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The modules that kernels.rs lists: `NAME = ["a.cuh", "b.cu"];` each.
fn listed(kernels_rs: &Path, folder: &Path) -> Vec<Module> {
    let text = read(kernels_rs);
    let list = text.split("\nmodules! {").nth(1).expect("kernels.rs has a list of modules");
    let list = list.split("\n}").next().unwrap_or_default();
    let code: String =
        list.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let modules = code.split(';').filter(|entry| entry.contains('[')).map(|entry| {
        // Between quotes: every second piece.
        let names: Vec<&str> = entry.split('"').skip(1).step_by(2).collect();
        let name = (*names.last().expect("a module has a file")).to_owned();
        Module { name, files: names.iter().map(|name| folder.join(name)).collect() }
    });
    modules.collect()
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
        // Kernels look at memory as what they like, and no product is joined with a sum but by fmaf.
        .flag("-fno-strict-aliasing")
        .flag("-ffp-contract=off")
        .flag("-ftls-model=initial-exec")
        .flag("-w");
    build
}

/// The compiler of kernels: what is undefined calls `emulated/undefined.cpp`, and what is not
/// initialised is not 0.
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

/// A file to compile, and all text that it is made of.
struct Source<'a> {
    path: PathBuf,
    text: String,
    compiler: &'a cc::Tool,
}

impl Source<'_> {
    /// The object, compiled unless the same was compiled the last time; what the compiler says if it
    /// cannot.
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

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let emulated = here.join("emulated");
    let cuda = here.join("../moexperts-cuda");
    let (kernels, kernels_rs) = (cuda.join("kernels"), cuda.join("src/kernels.rs"));
    let test_kernels = here.join("tests/kernels");
    for path in [&emulated, &kernels, &kernels_rs, &test_kernels] {
        println!("cargo:rerun-if-changed={}", path.display());
    }

    let mut modules = listed(&kernels_rs, &kernels);
    modules.extend(of_tests(&test_kernels));
    let headers = ["cuda.h", "runtime.h", "block.h", "switch.h", "tensor_map.h"];
    let headers: String = headers.map(|name| read(&emulated.join(name))).concat();
    let before = [kernels.join("prelude.cuh"), emulated.join("ptx.cuh")];
    let (compiler, kernel_compiler) = (compiler().get_compiler(), kernel_compiler().get_compiler());

    let sources = modules.iter().map(|module| {
        let identifier = module.identifier();
        let mut source = format!(
            "#include \"{}\"\n#define EMULATOR_MODULE \"{}\"\nnamespace module_{identifier} {{\n",
            emulated.join("cuda.h").display(),
            module.name,
        );
        let mut text = headers.clone();
        for file in before.iter().chain(&module.files) {
            source += &format!("#include \"{}\"\n", file.display());
            text += &read(file);
        }
        source += &format!("}}\nextern \"C\" void emulator_module_{identifier}() {{}}\n");
        let path = out_dir().join(format!("{identifier}.cpp"));
        write(&path, &source);
        Source { path, text: text + &source, compiler: &kernel_compiler }
    });
    let sources: Vec<Source<'_>> = sources.collect();
    let compiled = objects(&sources);

    // Names each module, so that the linker takes it.
    let mut anchors = String::new();
    for module in &modules {
        anchors += &format!("extern \"C\" void emulator_module_{}();\n", module.identifier());
    }
    anchors += "extern \"C\" void emulator_modules() {\n";
    for module in &modules {
        anchors += &format!("    emulator_module_{}();\n", module.identifier());
    }
    anchors += "}\n";
    // In place of a module that does not compile: those who work on others can go on.
    anchors += &format!("#include \"{}\"\n", emulated.join("runtime.h").display());
    for (module, _) in modules.iter().zip(&compiled).filter(|(_, object)| object.is_err()) {
        let (identifier, name) = (module.identifier(), &module.name);
        anchors += &format!(
            "extern \"C\" void emulator_module_{identifier}() {{}}\n\
             static const emulator::Kernel broken_{identifier}(\"\", \"{name}\", 0, 0, nullptr);\n",
        );
    }
    let path = out_dir().join("modules.cpp");
    write(&path, &anchors);
    let text = headers.clone() + &anchors;
    let mut runtime = vec![Source { path, text, compiler: &compiler }];
    for name in ["block.cpp", "copies.cpp", "products.cpp", "launch.cpp", "undefined.cpp"] {
        let path = emulated.join(name);
        let text = headers.clone() + &read(&path);
        runtime.push(Source { path, text, compiler: &compiler });
    }

    let mut archive = self::compiler();
    for errors in compiled.iter().filter_map(|object| object.as_ref().err()) {
        for line in errors.lines().filter(|line| line.contains("error:")).take(8) {
            println!("cargo:warning={line}");
        }
    }
    archive.objects(compiled.into_iter().flatten());
    for object in objects(&runtime) {
        archive.object(object.unwrap_or_else(|errors| panic!("{errors}")));
    }
    archive.compile("moexperts_emulated");
    // Threads of the host.
    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo:rustc-link-lib=pthread");
    }
}
