"""What a byte of each number format costs while decoding on a processor, as a multiple of one of q4_0.

Bandwidth alone mis-ranks formats: a byte of f16 is read at twice the speed of one of q4_0, whose codes take more
arithmetic. The multiples are fitted by bench/speed_rule.py to SmolLM2-135M's files on two cores, and miss the recorded
times by 4 % on average (bench/results/speed_rule.json). A format that no record holds much of counts as q4_0. Targets'
efficiencies were measured with q4_k_m, which is taken to cost as much as q4_0.
"""

COSTS = {"f32": 0.51, "f16": 0.51, "bf16": 0.51, "q8_0": 0.73, "q5_0": 1.16, "q5_1": 1.16, "q4_0": 1.0}
AUTO = 1.15  # of a mix fitted to a size, whose formats aren't known before


def cost_of(number_format: str | None, efficiency: float) -> float:
    """What a byte costs.

    Args:
        number_format: None in a mix that is yet to be fitted.
        efficiency: the target's share of its bandwidth, which no format can bring above 1.
    """
    cost = AUTO if number_format is None else COSTS.get(number_format, 1.0)
    return max(cost, efficiency)
