/** Files for the person in front of the page: one archive, since a page that offers several at once is asked about each. */
import { zipSync } from "fflate"

export function download(name: string, files: Readonly<Record<string, Uint8Array>>): void {
  // Random numbers do not get smaller.
  const bytes = zipSync({ ...files }, { level: 0 })
  const link = document.createElement("a")
  link.href = URL.createObjectURL(new Blob([bytes as Uint8Array<ArrayBuffer>], { type: "application/zip" }))
  link.download = name
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000)
}
