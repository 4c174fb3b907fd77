defmodule EmbeddedEpmd.Boot.Pattern do
  @moduledoc false
  # Patterns of names, in which `*` stands for any characters. The same rule is in
  # native/epmd_core/src/reserved_names.rs.

  @doc "Whether a name matches a pattern. One without `*` is a name."
  @spec matches?(String.t(), pattern :: String.t()) :: boolean()
  def matches?(name, name), do: true

  def matches?(name, pattern) do
    case :binary.split(pattern, "*", [:global]) do
      [_] ->
        false

      [first | parts] ->
        :binary.longest_common_prefix([name, first]) == byte_size(first) and follow?(without(name, first), parts)
    end
  end

  defp without(text, prefix), do: :binary.part(text, byte_size(prefix), byte_size(text) - byte_size(prefix))

  defp follow?(text, [last]), do: :binary.longest_common_suffix([text, last]) == byte_size(last)
  defp follow?(text, ["" | parts]), do: follow?(text, parts)

  defp follow?(text, [part | parts]) do
    case :binary.split(text, part) do
      [_, rest] -> follow?(rest, parts)
      [_] -> false
    end
  end
end
