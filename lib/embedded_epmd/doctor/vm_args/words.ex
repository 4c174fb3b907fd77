defmodule EmbeddedEpmd.Doctor.VmArgs.Words do
  @moduledoc false
  # The words of an arguments file, as `erlexec` reads them. Outside quotes, `#` begins a comment that ends with its line,
  # and a backslash takes the next character as it is. Inside quotes, which can begin and end within a word, everything
  # but the closing quote stands for itself. Pure.

  @blanks [?\s, ?\t, ?\n, ?\r, ?\f, ?\v]

  @doc "The words of a file, without its comments."
  @spec of_file(String.t()) :: [String.t()]
  def of_file(text), do: words(text, true)

  @doc "The words of a variable such as ERL_FLAGS, which has no comments."
  @spec of_variable(String.t()) :: [String.t()]
  def of_variable(text), do: words(text, false)

  @doc "A word as it must be written to be read as it is."
  @spec quoted(String.t()) :: String.t()
  def quoted(""), do: "''"

  def quoted(word) do
    cond do
      not (word =~ ~r/[\s"'\\#]/) -> word
      word =~ "'" -> "\"" <> String.replace(word, "\"", "\"'\"'\"") <> "\""
      true -> "'" <> word <> "'"
    end
  end

  # The word so far is nil between words, since a word may be empty.
  defp words(text, comments?), do: text |> read(nil, [], comments?) |> Enum.reverse()

  defp read("", word, words, _comments?), do: add(word, words)

  defp read(<<"#", rest::binary>>, word, words, true),
    do: rest |> String.split("\n", parts: 2) |> Enum.at(1, "") |> read(nil, add(word, words), true)

  defp read(<<blank, rest::binary>>, word, words, comments?) when blank in @blanks,
    do: read(rest, nil, add(word, words), comments?)

  defp read(<<quote, rest::binary>>, word, words, comments?) when quote in [?", ?'] do
    {inside, rest} =
      case :binary.split(rest, <<quote>>) do
        [inside, rest] -> {inside, rest}
        [inside] -> {inside, ""}
      end

    read(rest, (word || "") <> inside, words, comments?)
  end

  defp read(<<"\\", char::utf8, rest::binary>>, word, words, comments?),
    do: read(rest, (word || "") <> <<char::utf8>>, words, comments?)

  defp read("\\", word, words, comments?), do: read("", word || "", words, comments?)
  defp read(<<byte, rest::binary>>, word, words, comments?), do: read(rest, (word || "") <> <<byte>>, words, comments?)

  defp add(nil, words), do: words
  defp add(word, words), do: [word | words]
end
