/**
 * Makes a folder with a TensorFlow in it, where the backend looks for one: fetched as wheels, or linked from a Python that has it.
 *
 *   $PEFTJS_CACHE/tensorflow/tensorflow-2.18.1-<checksum>/
 *     tensorflow/  nvidia/  addon/    READY is written last and lists the libraries' sizes, so that a broken folder is made anew
 *
 * It is made beside its place and renamed; what has been fetched stays in <folder>.part until then, so that a second run goes on.
 */
import { createHash } from "node:crypto"
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs"
import { mkdir, rename, rm, statfs, symlink, writeFile } from "node:fs/promises"
import { dirname, join } from "node:path"
import { findTensorFlow, setupFolder } from "@peftjs/backend-cuda/node"
import { PeftError } from "@peftjs/core"
import { addonOf } from "./addon.ts"
import { nvidia, tensorflow, tensorflowVersion } from "./pins.ts"
import { fetchWheels, unpackWheel } from "./wheels.ts"

export interface InstallOptions {
  readonly device: "cpu" | "gpu"
  /** A Python that has TensorFlow, which is linked then. */
  readonly fromPython?: string
  /** The Python whose pip fetches. */
  readonly python: string
  readonly addon: boolean
}

export interface InstallPlan {
  readonly folder: string
  /** Complete already. */
  readonly there: boolean
  /** What will be done, for people. */
  readonly steps: readonly string[]
  /** MB. */
  readonly download: number
  readonly disk: number
  readonly requirements: readonly string[]
  /** The TensorFlow that is linked. */
  readonly link?: string
}

/** What would be done; changes nothing. Throws E_SETUP, and E_TENSORFLOW for a Python without it. */
export function planInstall({ device, fromPython, addon }: InstallOptions): InstallPlan {
  if (process.platform !== "linux" || process.arch !== "x64")
    throw new PeftError(
      "E_SETUP",
      `[cli] peft setup cuda fetches TensorFlow for Linux on x64, and this is ${process.platform} on ${process.arch}; TensorFlow has no CUDA for Windows (use WSL 2) and macOS: --backend webgpu runs there`,
    )
  const { folder, link, requirements, download, disk } =
    fromPython === undefined ? wheelsOf(device) : linkOf(fromPython, device)
  const there = isReady(folder)
  const steps = there ? [] : link ? [`link ${link}`] : [`fetch ${requirements.map((r) => r.split(" ")[0]).join(", ")}`]
  const compile = addon && !existsSync(addonOf(folder))
  return {
    folder,
    there,
    steps: [...steps, ...(compile ? ["compile the addon of tfjs-node-gpu"] : []), "test it"],
    download: there ? 0 : download,
    disk: there ? 0 : disk,
    requirements,
    ...(link === undefined ? {} : { link }),
  }
}

type Source = Pick<InstallPlan, "folder" | "requirements" | "download" | "disk" | "link">

function wheelsOf(device: "cpu" | "gpu"): Source {
  const { name, sha256, ...own } = tensorflow[device]
  const all = device === "gpu" ? [own, nvidia] : [own]
  return {
    folder: join(setupFolder(), `${name}-${tensorflowVersion}-${sha256.slice(0, 12)}`),
    requirements: all.flatMap((wheels) => wheels.requirements),
    download: all.reduce((sum, wheels) => sum + wheels.download, 0),
    disk: all.reduce((sum, wheels) => sum + wheels.disk, 0),
  }
}

function linkOf(python: string, device: "cpu" | "gpu"): Source {
  const link = findTensorFlow({ library: python, device }).folder
  const hash = createHash("sha256").update(link).digest("hex").slice(0, 12)
  return { folder: join(setupFolder(), `python-${hash}`), requirements: [], download: 0, disk: 0, link }
}

/** Does what the plan says but for the addon. Throws E_SETUP, E_WRITE of the disk. */
export async function install(plan: InstallPlan, python: string): Promise<void> {
  if (plan.there) return
  const part = `${plan.folder}.part`
  const home = join(part, "home")
  await rm(home, { recursive: true, force: true })
  await mkdir(home, { recursive: true })
  if (plan.link === undefined)
    await unpackAll(plan, python, part, home).catch(async (error) => {
      // Whole wheels stay for the next run; an empty folder does not.
      await rm(home, { recursive: true, force: true })
      if (wheelsIn(part) === 0) await rm(part, { recursive: true, force: true })
      throw error
    })
  else {
    await symlink(plan.link, join(home, "tensorflow"))
    const beside = join(dirname(plan.link), "nvidia")
    if (existsSync(beside)) await symlink(beside, join(home, "nvidia"))
  }
  await writeFile(join(home, "READY"), `${JSON.stringify(sizes(home), null, 2)}\n`)
  await rm(plan.folder, { recursive: true, force: true })
  await rename(home, plan.folder)
  await rm(part, { recursive: true, force: true })
}

async function unpackAll(plan: InstallPlan, python: string, part: string, home: string): Promise<void> {
  const { bavail, bsize } = await statfs(part)
  const wanted = plan.download + plan.disk
  if ((bavail * bsize) / 1e6 < wanted)
    throw new PeftError(
      "E_SETUP",
      `[cli] ${part} has ${Math.floor((bavail * bsize) / 1e6)} MB free and ${wanted} MB are needed; make room, or name another folder in PEFTJS_CACHE`,
    )
  const fetched = join(part, "wheels")
  await mkdir(fetched, { recursive: true })
  for (const wheel of await fetchWheels(python, plan.requirements, fetched)) await unpackWheel(python, wheel, home)
}

function wheelsIn(part: string): number {
  const fetched = join(part, "wheels")
  return existsSync(fetched) ? readdirSync(fetched).filter((name) => name.endsWith(".whl")).length : 0
}

/** Sizes of the libraries by their paths in the folder. */
function sizes(home: string): Record<string, number> {
  const libraries = join(home, "tensorflow")
  const names = readdirSync(libraries).filter((name) => /^libtensorflow.*\.so/.test(name))
  return Object.fromEntries(names.map((name) => [`tensorflow/${name}`, statSync(join(libraries, name)).size]))
}

function isReady(folder: string): boolean {
  try {
    const said = JSON.parse(readFileSync(join(folder, "READY"), "utf8")) as Record<string, number>
    return Object.entries(said).every(([path, size]) => statSync(join(folder, path)).size === size)
  } catch {
    return false
  }
}
