"""Chunks end where they are full, at the last comma near their end, and at a BREAK."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from worker.image.chunks import COMMA_BACKTRACK, Token, in_chunks

ROOM, COMMA = 75, 9


def laid_out(*parts: list[int] | None) -> list[list[int]]:
    chunks = in_chunks(
        [None if part is None else [Token(id_) for id_ in part] for part in parts], room=ROOM, comma=COMMA
    )
    return [[token.id for token in chunk] for chunk in chunks]


def with_commas(length: int, *places: int) -> list[int]:
    return [COMMA if place in places else 100 + place for place in range(length)]


def expected(tokens: list[int]) -> list[list[int]]:
    """The rule for tokens without BREAK, told of each chunk's end instead of each token."""
    if len(tokens) <= ROOM:
        return [tokens]
    commas = [place for place in range(ROOM) if tokens[place] == COMMA]
    is_near = bool(commas) and ROOM - commas[-1] <= COMMA_BACKTRACK and tokens[ROOM] != COMMA
    end = commas[-1] + 1 if is_near else ROOM
    return [tokens[:end], *expected(tokens[end:])]


@given(st.lists(st.integers(1, COMMA + 20), max_size=300))
def test_chunks_end_by_the_rule(tokens: list[int]) -> None:
    assert laid_out(tokens) == expected(tokens)


def test_a_phrase_moves_to_the_next_chunk_from_a_comma_that_is_at_most_20_tokens_back() -> None:
    assert list(map(len, laid_out(with_commas(80)))) == [75, 5]
    assert list(map(len, laid_out(with_commas(80, 55)))) == [56, 24]
    assert list(map(len, laid_out(with_commas(80, 54)))) == [75, 5]
    assert list(map(len, laid_out(with_commas(80, 55, 60)))) == [61, 19]
    assert list(map(len, laid_out(with_commas(80, 74)))) == [75, 5]
    assert list(map(len, laid_out(with_commas(80, 60, 75)))) == [75, 5]  # a comma itself stays in its phrase
    assert list(map(len, laid_out(with_commas(75, 60)))) == [75]


WORDS = {1000: 3, 2000: 75, 3000: 76}


def with_words(*parts: list[int] | None) -> list[list[int]]:
    tokens = [None if part is None else [Token(id_) for id_ in part] for part in parts]
    chunks = in_chunks(tokens, room=ROOM, comma=COMMA, words=WORDS)
    return [[token.id for token in chunk] for chunk in chunks]


def test_an_embedding_s_word_stays_in_one_chunk() -> None:
    word = [1000, 1001, 1002]
    assert list(map(len, with_words([*with_commas(71), *word, 5]))) == [75]
    assert list(map(len, with_words([*with_commas(72), *word, 5]))) == [75, 1]
    for before in (73, 74):
        assert with_words([*with_commas(before), *word, 5]) == [with_commas(before), [*word, 5]]
    assert with_words([*with_commas(73), *word, *word]) == [with_commas(73), word + word]
    # Only a full chunk ends at a comma before its end.
    assert list(map(len, with_words([*with_commas(74, 60), *word]))) == [74, 3]
    assert list(map(len, with_words([*with_commas(75, 60), *word]))) == [61, 17]
    assert list(map(len, with_words([*with_commas(70, 60), *word, 5, 5, 5]))) == [61, 15]  # the word moves as a whole


def test_a_word_as_long_as_a_chunk_fills_one_and_a_longer_one_is_cut_like_any_text() -> None:
    assert list(map(len, with_words([1, *range(2000, 2075), 2]))) == [1, 75, 1]
    assert list(map(len, with_words([1, *range(3000, 3076), 2]))) == [75, 3]


def test_tokens_that_only_begin_like_a_word_are_tokens() -> None:
    assert list(map(len, with_words([*with_commas(74), 1000, 1001, 7]))) == [75, 2]
    assert list(map(len, with_words([*with_commas(74), 1000], None, [1001, 1002]))) == [75, 2]


def test_a_break_ends_the_chunk_and_two_leave_an_empty_one() -> None:
    assert laid_out([1, 2], None, [3]) == [[1, 2], [3]]
    assert laid_out([1], None, [], None, [2]) == [[1], [], [2]]
    assert laid_out([], None, [1]) == [[], [1]]
    assert laid_out([1], None, []) == [[1]]
    assert laid_out([]) == laid_out() == [[]]


def test_a_comma_before_a_break_takes_nothing_into_the_next_chunk() -> None:
    assert list(map(len, laid_out(with_commas(70, 69), None, with_commas(76)))) == [70, 75, 1]


def test_tokens_keep_their_weights_where_they_move() -> None:
    tokens = [Token(COMMA if place == 70 else place + 100, float(place)) for place in range(80)]
    chunks = in_chunks([tokens], room=ROOM, comma=COMMA)
    assert [token for chunk in chunks for token in chunk] == tokens
