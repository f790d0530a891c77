package batch

// Share tells to which of n lanes the key with this low word belongs. It depends on the upper half of the word alone: that is what the state of
// dedup keeps of it, so that a key can be told its lane again when the number of lanes is changed.
func Share(low uint64, n int) int { return int((low >> 32) % uint64(n)) }
