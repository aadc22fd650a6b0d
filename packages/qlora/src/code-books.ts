/** The values that codes stand for, as bitsandbytes has them (bitsandbytes/functional.py: get_4bit_type, create_dynamic_map). */

/** A code book with the decision between neighbours: codes in the order of their values, and the midpoints between those. */
export interface CodeBook {
  /** Value of each code. */
  readonly values: Float32Array
  /** Codes by ascending value. */
  readonly order: Uint8Array
  /** Ascending; one fewer than codes. */
  readonly midpoints: Float32Array
}

/** A tie goes to the lower value: the code is order[number of midpoints strictly below]. */
function codeBook(values: Float32Array): CodeBook {
  const order = Uint8Array.from(values.keys()).sort((a, b) => (values[a] as number) - (values[b] as number) || a - b)
  const sorted = Array.from(order, (code) => values[code] as number)
  const midpoints = sorted.slice(1).map((value, i) => Math.fround(value + (sorted[i] as number)) / 2)
  return { values, order, midpoints: Float32Array.from(midpoints) }
}

/** Index of a value in a book's order. */
export function nearest({ midpoints }: CodeBook, x: number): number {
  let [low, high] = [0, midpoints.length]
  while (low < high) {
    const middle = (low + high) >> 1
    if ((midpoints[middle] as number) < x) low = middle + 1
    else high = middle
  }
  return low
}

/** Pieces of [-1, 1] that a search begins in. */
const bins = 1024

/** The same for many values of [-1, 1] and few codes: it begins at what the piece that a value is in begins with. */
export function searcher(book: CodeBook): (x: number) => number {
  const { midpoints } = book
  // One piece earlier, whatever the rounding of the piece's number does.
  const starts = Uint8Array.from({ length: bins + 1 }, (_, bin) => nearest(book, (bin - 1) / (bins / 2) - 1))
  return (x) => {
    let index = starts[((x + 1) * (bins / 2)) | 0] as number
    while ((midpoints[index] as number) < x) index++
    return index
  }
}

/** Quantiles of a normal distribution, with an exact zero (Dettmers et al. 2023, "QLoRA", appendix E). */
export const nf4Book: CodeBook = codeBook(
  Float32Array.of(
    ...[-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635],
    ...[-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725],
    ...[0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0],
  ),
)

const fp4Positive = [0, 0.0625, 8, 12, 4, 6, 2, 3].map((x) => x / 12)
/** A sign, two bits of exponent and one of mantissa; the values are not in order of the codes, and there are two zeros. */
export const fp4Book: CodeBook = codeBook(Float32Array.of(...fp4Positive, ...fp4Positive.map((x) => 0 - x)))

/** The signed dynamic map of 8 bits (Dettmers et al. 2021, "8-bit optimizers"): seven decades, each with twice the fractions of the one before. */
export const dynamicBook: CodeBook = codeBook(dynamicMap())

function dynamicMap(): Float32Array {
  const values = [0, 1]
  for (let decade = 0; decade < 7; decade++) {
    const parts = 2 ** decade
    // Midpoints of linspace(0.1, 1, parts + 1), which torch computes in f32.
    const at = Array.from({ length: parts + 1 }, (_, i) => linspace(i, parts))
    for (let i = 0; i < parts; i++) {
      const mean = Math.fround(Math.fround((at[i] as number) + (at[i + 1] as number)) / 2)
      const value = Math.fround(Math.fround(10 ** (decade - 6)) * mean)
      values.push(value, -value)
    }
  }
  return Float32Array.from(values).sort()
}

/** torch.linspace(0.1, 1, parts + 1)[i] in f32: from the nearer end, product and sum rounded once. */
function linspace(i: number, parts: number): number {
  const step = Math.fround(Math.fround(1 - Math.fround(0.1)) / parts)
  return Math.fround(i < (parts + 1) / 2 ? Math.fround(0.1) + step * i : 1 - step * (parts - i))
}
