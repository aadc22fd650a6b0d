/** Where a BLAS may be: names the system's loader knows, and the libraries that Python packages carry. Looks at files; runs nothing. */
import { existsSync, readdirSync, realpathSync } from "node:fs"
import { delimiter, dirname, join } from "node:path"

const systemNames: Readonly<Record<string, readonly string[]>> = {
  linux: ["libopenblas.so.0", "libopenblas.so", "libblis.so.4", "libblis.so"],
  darwin: ["/System/Library/Frameworks/Accelerate.framework/Accelerate", "libopenblas.dylib"],
  win32: ["libopenblas.dll", "openblas.dll"],
}

const mklNames: Readonly<Record<string, readonly string[]>> = {
  linux: ["libmkl_rt.so.3", "libmkl_rt.so.2", "libmkl_rt.so"],
  win32: ["mkl_rt.3.dll", "mkl_rt.2.dll"],
}

/** On processors of its maker; on others it takes a path half as fast. There is none for Apple's systems any more. */
export function mklIsFastest(platform: string, processor: string): boolean {
  return platform !== "darwin" && processor.includes("Intel")
}

/** Names and paths to try, best first. */
export function blasCandidates(env: NodeJS.ProcessEnv, platform: NodeJS.Platform, processor: string): string[] {
  const pythons = pythonPrefixes(env)
  const mkl = [
    ...(mklNames[platform] ?? []),
    ...pythons.flatMap((prefix) => entries(join(prefix, "lib"), /^libmkl_rt\.so/)),
  ]
  const others = [...(systemNames[platform] ?? []), ...pythons.flatMap(sitePackages).flatMap(bundled)]
  return mklIsFastest(platform, processor) ? [...mkl, ...others] : [...others, ...mkl]
}

/** The active virtual environment, and where each python3 on PATH is installed. */
function pythonPrefixes(env: NodeJS.ProcessEnv): string[] {
  const bins = (env.PATH ?? "")
    .split(delimiter)
    .filter((folder) => folder !== "" && existsSync(join(folder, "python3")))
  const prefixes = [
    ...(env.VIRTUAL_ENV ? [env.VIRTUAL_ENV] : []),
    // Both as named (a virtual environment's python is a link out of it) and resolved.
    ...bins.flatMap((bin) => [dirname(bin), dirname(dirname(realpathSync(join(bin, "python3"))))]),
  ]
  return [...new Set(prefixes)]
}

function sitePackages(prefix: string): string[] {
  return entries(join(prefix, "lib"), /^python3/).flatMap((lib) => [
    join(lib, "site-packages"),
    join(lib, "dist-packages"),
  ])
}

const library = /^lib(scipy_)?openblas.*\.(so|dylib)/

/** The OpenBLAS of PyPI's scipy-openblas32/64 and the ones inside the numpy and scipy wheels. */
function bundled(site: string): string[] {
  return [
    ["scipy_openblas32", "lib"],
    ["scipy_openblas64", "lib"],
    ["numpy.libs"],
    ["scipy.libs"],
    ["numpy", ".dylibs"],
    ["scipy", ".dylibs"],
  ].flatMap((path) => entries(join(site, ...path), library))
}

function entries(folder: string, name: RegExp): string[] {
  try {
    return readdirSync(folder)
      .filter((entry) => name.test(entry))
      .map((entry) => join(folder, entry))
  } catch {
    return []
  }
}
