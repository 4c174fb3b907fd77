defmodule EmbeddedEpmd.Boot.Printable do
  @moduledoc false
  # Bytes from outside of this VM, such as the names of another EPMD, as they may be shown to people and programs: they
  # control no terminal, forge no line, and show nothing in another place than it has.

  # Control characters, the separators of lines and paragraphs, and the characters that Unicode calls
  # Default_Ignorable_Code_Point, to which those belong that change the direction of text and those without a width.
  defguardp is_hidden(char)
            when char < 0x20 or char in 0x7F..0x9F or char in 0x2028..0x2029 or
                   char in [0xAD, 0x034F, 0x061C, 0x3164, 0xFEFF, 0xFFA0] or char in 0x115F..0x1160 or
                   char in 0x17B4..0x17B5 or char in 0x180B..0x180F or char in 0x200B..0x200F or
                   char in 0x202A..0x202E or char in 0x2060..0x206F or char in 0xFE00..0xFE0F or
                   char in 0xFFF0..0xFFFB or char in 0x1BCA0..0x1BCA3 or char in 0x1D173..0x1D17A or
                   char in 0xE0000..0xE0FFF

  @doc "As text. Of what cannot be printed each byte is `\\xNN`."
  @spec text(binary()) :: String.t()
  def text(bytes), do: text(bytes, "")

  defp text(<<char::utf8, rest::binary>>, done) when is_hidden(char),
    do: text(rest, <<done::binary, escaped(<<char::utf8>>)::binary>>)

  defp text(<<char::utf8, rest::binary>>, done), do: text(rest, <<done::binary, char::utf8>>)
  defp text(<<byte, rest::binary>>, done), do: text(rest, <<done::binary, escaped(<<byte>>)::binary>>)
  defp text("", done), do: done

  defp escaped(bytes), do: for(<<high::4, low::4 <- bytes>>, into: "", do: <<"\\x", digit(high), digit(low)>>)

  @doc """
  As a string of JSON, with its quotes. What cannot be printed is `\\uNNNN`, so that a program gets the characters; bytes
  that are no UTF-8, for which JSON has no form, are the text `\\xNN`.
  """
  @spec json(binary()) :: String.t()
  def json(bytes), do: json(bytes, "\"")

  defp json(<<char, rest::binary>>, done) when char in ~c(\"\\), do: json(rest, <<done::binary, ?\\, char>>)

  defp json(<<char::utf8, rest::binary>>, done) when is_hidden(char),
    do: json(rest, <<done::binary, units(<<char::utf16>>)::binary>>)

  defp json(<<char::utf8, rest::binary>>, done), do: json(rest, <<done::binary, char::utf8>>)

  defp json(<<high::4, low::4, rest::binary>>, done),
    do: json(rest, <<done::binary, "\\\\x", digit(high), digit(low)>>)

  defp json("", done), do: <<done::binary, "\"">>

  defp units(units) do
    for <<a::4, b::4, c::4, d::4 <- units>>, into: "", do: <<"\\u", digit(a), digit(b), digit(c), digit(d)>>
  end

  defp digit(number) when number < 10, do: ?0 + number
  defp digit(number), do: ?A + number - 10
end
