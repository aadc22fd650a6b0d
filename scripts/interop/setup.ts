/**
 * Prepares what the interop checks compare with, once per machine and outside the repository: a Python environment with
 * pinned PyTorch, transformers and PEFT, and the real model. It must not know what is checked.
 *
 *   $PEFTJS_CACHE (default ~/.cache/peftjs)
 *     venv-<hash of requirements.txt>/   READY is written last, so a half-made environment is made again
 *     smollm2/                           written by models/make_smollm2.py of the shared folder
 */
import { spawnSync } from "node:child_process"
import { createHash } from "node:crypto"
import { existsSync, mkdirSync, readFileSync, realpathSync, renameSync, rmSync, writeFileSync } from "node:fs"
import { homedir } from "node:os"
import { join, resolve } from "node:path"
import { fileURLToPath } from "node:url"

/** Absolute paths of everything the checks use from outside the repository. */
export type Oracle = { cache: string; python: string; blas: string; model: string; shared: string }

export const repository: string = fileURLToPath(new URL("../../", import.meta.url))
const here = fileURLToPath(new URL("./", import.meta.url))

/** Makes whatever is missing and returns the paths; safe to call from several processes at once. Throws with a plain message. */
export async function setUp(): Promise<Oracle> {
  const shared = findShared()
  const cache = resolve(process.env.PEFTJS_CACHE ?? join(homedir(), ".cache", "peftjs"))
  if (`${cache}/`.startsWith(repository))
    throw new Error(`PEFTJS_CACHE = ${cache} is inside the repository; name a folder outside it`)
  mkdirSync(cache, { recursive: true })
  const python = await withLock(join(cache, "venv.lock"), () => makeVenv(cache))
  const model = await withLock(join(cache, "smollm2.lock"), () => makeModel(cache, python, shared))
  const blas = run(python, [
    "-c",
    "import scipy_openblas32 as b; print(b.get_lib_dir() + '/' + b.get_library(fullname=True))",
  ]).trim()
  return { cache, python, blas, model, shared }
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
