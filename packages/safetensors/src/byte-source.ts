/**
 * Where bytes come from and go to: one file (ByteSource), a folder to read (FileSource), a folder to write (FileSink).
 * Node's disk, a browser's fetch or a model hub each implement these; this file must not know any of them.
 */
import { fail } from "./error.ts"

/** A file that can be read in pieces. */
export interface ByteSource {
  /** What to call it in messages. */
  readonly name: string
  /** Bytes of the whole file. */
  readonly size: number
  /**
   * Bytes `start` up to but not including `end`, 0 ≤ start ≤ end ≤ size. May be a view of memory shared with others. A source that would
   * make new memory for them fills `into` from its beginning instead, where that is given and long enough, and returns what it has filled.
   */
  read(start: number, end: number, into?: Uint8Array): Promise<Uint8Array>
}

/** A read-only folder. Paths are relative and separated by "/". */
export interface FileSource {
  readonly name: string
  /** @throws E_FILE_NOT_FOUND naming the path */
  open(path: string): Promise<ByteSource>
  has(path: string): Promise<boolean>
  /** Every file below the folder, sorted, where the place can be listed. */
  list?(): Promise<string[]>
}

/** A folder to write to. Each write is atomic: readers see the old file or the whole new one, never a part. */
export interface FileSink {
  readonly name: string
  /** Writes or replaces one file. An error thrown by `chunks` is passed on and leaves what was there as it was. */
  write(path: string, chunks: Iterable<Uint8Array> | AsyncIterable<Uint8Array>): Promise<void>
}

/** A file that is already in memory. `read` returns views of `data`, never copies. */
export function bytes(name: string, data: Uint8Array): ByteSource {
  return { name, size: data.byteLength, read: async (start, end) => data.subarray(start, end) }
}

/** The pieces of `source` between `start` and `end`. E_READ if the source delivers another number of bytes. */
export async function readRange(
  source: ByteSource,
  start: number,
  end: number,
  into?: Uint8Array,
): Promise<Uint8Array> {
  const data = await source.read(start, end, into)
  if (data.byteLength !== end - start)
    fail("E_READ", `${source.name}: asked for bytes ${start} to ${end}, got ${data.byteLength} bytes; was it changed?`)
  return data
}

/**
 * A whole text file of a folder.
 *
 * @throws E_FILE_NOT_FOUND, E_READ (also if it is not UTF-8)
 */
export async function readText(files: FileSource, path: string): Promise<string> {
  const source = await files.open(path)
  const data = await readRange(source, 0, source.size)
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(data)
  } catch (error) {
    fail("E_READ", `${source.name} is not UTF-8 text`, error)
  }
}

/** Writes one text file, as UTF-8. */
export async function writeText(files: FileSink, path: string, text: string): Promise<void> {
  await files.write(path, [new TextEncoder().encode(text)])
}

/**
 * Returns `path` if it stays inside its folder whatever the operating system; file names come out of downloaded index
 * files, so ".." must not lead anywhere.
 *
 * @throws E_PATH for an absolute path, a backslash, a drive letter, an empty part, "." or ".."
 */
export function checkPath(path: string): string {
  if (path.split("/").some((part) => part === "" || part === "." || part === "..") || /[\\\0]|^[a-z]:/i.test(path))
    fail(
      "E_PATH",
      `${JSON.stringify(path)} is not a path inside the folder; use a relative one such as "adapter/x.json"`,
    )
  return path
}
