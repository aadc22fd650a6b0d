/** WebGPU's usage bits as numbers: in Node they are no globals, and Dawn's globals need not be put there for their sake. */

export const usage = { mapRead: 0x1, copySource: 0x4, copyTarget: 0x8, uniform: 0x40, storage: 0x80 } as const
export const mapRead = 0x1
export const computeStage = 0x4
