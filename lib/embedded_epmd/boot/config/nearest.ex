defmodule EmbeddedEpmd.Boot.Config.Nearest do
  @moduledoc false
  # Which of the known names was most likely meant by one that is not known. Pure.

  @doc "The nearest of the known names as a question, or all of them if none is near."
  @spec hint(term(), [atom() | String.t()]) :: String.t()
  def hint(name, known) do
    [{distance, nearest} | _] =
      :lists.sort(:lists.map(fn known -> {distance(characters(name), characters(known)), text(known)} end, known))

    if distance <= 2 or 3 * distance <= length(characters(name)),
      do: "did you mean " <> nearest <> "?",
      else: "there are " <> :unicode.characters_to_binary(:lists.join(", ", :lists.map(&text/1, known)))
  end

  defp characters(name) when is_atom(name), do: :erlang.atom_to_list(name)
  defp characters(name) when is_binary(name), do: :unicode.characters_to_list(name)
  defp characters(name), do: :io_lib.format(~c"~tp", [name]) |> :lists.flatten()

  defp text(name), do: :unicode.characters_to_binary(characters(name))

  # How many characters must be added, left out or replaced to make the one of the other, row by row (Levenshtein).
  defp distance(one, other), do: :lists.last(rows(one, other, :lists.seq(0, length(other))))

  defp rows([], _other, row), do: row
  defp rows([a | one], other, [first | _] = above), do: rows(one, other, [first + 1 | row(a, other, above, first + 1)])

  defp row(_a, [], _above, _left), do: []

  defp row(a, [b | other], [diagonal | [up | _] = above], left) do
    cost = :erlang.min(:erlang.min(left, up) + 1, diagonal + if(a == b, do: 0, else: 1))
    [cost | row(a, other, above, cost)]
  end
end
