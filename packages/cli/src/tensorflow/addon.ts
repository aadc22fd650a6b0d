/** Compiles the addon of @tensorflow/tfjs-node-gpu for a TensorFlow that is there: its own install script cannot do that for CUDA 12. */
import { createHash } from "node:crypto"
import { existsSync, realpathSync } from "node:fs"
import { mkdir, mkdtemp, readdir, readFile, rename, rm } from "node:fs/promises"
import { dirname, join } from "node:path"
import { PeftError } from "@peftjs/core"
import { addonSources, nodeHeaders } from "./pins.ts"
import { runProgram } from "./program.ts"

/** Where it will be. It finds the library beside it by a relative path, so it must not be copied elsewhere. */
export function addonOf(home: string): string {
  return join(home, "addon", "tfjs_binding.node")
}

/** Needs npm for the sources and g++ (or what CXX names), and takes some seconds. Throws E_SETUP. */
export async function buildAddon(home: string): Promise<void> {
  const folder = dirname(addonOf(home))
  await mkdir(folder, { recursive: true })
  const work = await mkdtemp(join(folder, "build-"))
  try {
    const sources = join(await unpackPackage(addonSources, join(work, "sources")), "binding")
    const beside = join(dirname(dirname(realpathSync(process.execPath))), "include", "node")
    const headers = existsSync(join(beside, "node_api.h"))
      ? beside
      : join(await unpackPackage(nodeHeaders, join(work, "headers")), "include")
    const library = join(home, "tensorflow")
    const made = join(work, "tfjs_binding.node")
    const flags = ["-std=c++17", "-O2", "-fPIC", "-shared", "-DNAPI_VERSION=8", "-DNODE_GYP_MODULE_NAME=tfjs_binding"]
    const files = ["tfjs_backend.cc", "tfjs_binding.cc"].map((name) => join(sources, name))
    const libraries = [
      "-l:libtensorflow_cc.so.2",
      "-l:libtensorflow_framework.so.2",
      "-Wl,-rpath,$ORIGIN/../tensorflow",
    ]
    const include = [`-I${headers}`, `-I${join(library, "include")}`]
    await runProgram(
      process.env.CXX ?? "g++",
      [...flags, "-DBUILDING_NODE_EXTENSION", ...include, ...files, "-o", made, `-L${library}`, ...libraries],
      { otherwise: "install a C++ compiler (Debian: g++), or do without --addon" },
    )
    await rename(made, addonOf(home))
  } finally {
    await rm(work, { recursive: true, force: true })
  }
}

async function unpackPackage(
  { name, integrity }: { readonly name: string; readonly integrity: string },
  folder: string,
): Promise<string> {
  await mkdir(folder, { recursive: true })
  await runProgram("npm", ["pack", "--silent", name], { cwd: folder, otherwise: "npm comes with Node" })
  const [archive = ""] = (await readdir(folder)).filter((file) => file.endsWith(".tgz"))
  const path = join(folder, archive)
  const found = `sha512-${createHash("sha512")
    .update(await readFile(path))
    .digest("base64")}`
  if (found !== integrity)
    throw new PeftError(
      "E_SETUP",
      `[cli] ${name} came with the checksum ${found}; ${integrity} is expected: is the registry the right one?`,
    )
  await runProgram("tar", ["-xzf", path, "-C", folder], { otherwise: "install tar" })
  return join(folder, "package")
}
