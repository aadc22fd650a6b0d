/** Block sizes that bitsandbytes knows (0.50.2). */
export const blockSizes: readonly number[] = [32, 64, 128, 256, 512, 1024, 2048, 4096]
