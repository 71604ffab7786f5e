"""Agreement among validators: single-shot Simplex per height, as a pure state machine."""
