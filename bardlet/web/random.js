// The random numbers of torch.Generator, so that a seed gives the text here that it gives there.

/** Numbers in [0, 1) of 24 bits: MT19937 (Matsumoto and Nishimura 1998) as torch.rand uses it. */
export class Random {
  /** Sample `number` of `seed`, as bardlet/sample.py counts them. */
  constructor(seed, number = 0) {
    const whole = BigInt(seed) * 1_000_003n + BigInt(number);
    this.state = new Uint32Array(624);
    this.state[0] = Number(whole & 0xffffffffn);
    for (let i = 1; i < 624; i++) {
      const last = this.state[i - 1];
      this.state[i] = Math.imul(1812433253, last ^ (last >>> 30)) + i;
    }
    this.at = 624;
  }

  next() {
    if (this.at === 624) this.twist();
    let y = this.state[this.at++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    y ^= y >>> 18;
    return (y & 0xffffff) / 0x1000000;
  }

  twist() {
    const { state } = this;
    for (let i = 0; i < 624; i++) {
      const y = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
      state[i] = state[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    this.at = 0;
  }
}
