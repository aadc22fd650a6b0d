/** Whether a shared library of Linux is all there. A library that was cut short kills the process when it is loaded, so this is asked before. */
import { closeSync, fstatSync, openSync, readSync } from "node:fs"

const machines: Readonly<Record<string, number>> = { x64: 62, arm64: 183 }

/** What is wrong with the file, or undefined. Its section headers, which stand at its end, must be inside it. */
export function elfProblem(path: string): string | undefined {
  const file = openSync(path, "r")
  try {
    const { size } = fstatSync(file)
    const header = new DataView(new ArrayBuffer(64))
    if (readSync(file, header) < 64 || header.getUint32(0) !== 0x7f454c46 || header.getUint8(4) !== 2)
      return "it is no shared library of 64 bits"
    if (header.getUint16(18, true) !== machines[process.arch]) return `it is for another processor than ${process.arch}`
    const end = Number(header.getBigUint64(40, true)) + header.getUint16(58, true) * header.getUint16(60, true)
    if (end > size) return `it was cut short: ${size} bytes of at least ${end}`
    return undefined
  } finally {
    closeSync(file)
  }
}
