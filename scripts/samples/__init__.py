"""How the shipped samples were made: grammars, vocabulary, training; in no wheel, run from here."""
