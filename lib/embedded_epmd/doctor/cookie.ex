defmodule EmbeddedEpmd.Doctor.Cookie do
  @moduledoc false
  # Whether a cookie could be guessed. Nothing here says how, or anything else of it.

  # What is left of a cookie without the words that anybody would try. OTP's own has 20 random letters.
  @least 16
  @least_different 6

  # Of cookies that are published with programs, and of examples: monster, emqxsecretcookie, rabbitmq, ...
  @words ~w(change cluster cookie couchdb default dist distribution ejabberd elixir emqx erlang example foobar livebook
            master mongooseim monster node otp password phoenix please prod production rabbit rabbitmq release riak sample
            secret server super test verne vernemq vscode)

  @doc "Whether a cookie is short, a published default, or made of common words or of the node's name."
  @spec weak?(atom(), node()) :: boolean()
  def weak?(cookie, node) do
    cookie = cookie |> Atom.to_string() |> String.downcase()
    left = Enum.reduce(words(node), cookie, &String.replace(&2, &1, ""))
    String.length(left) < @least or left |> String.graphemes() |> Enum.uniq() |> length() < @least_different
  end

  # The longest first, since they may contain each other.
  defp words(node) do
    of_node =
      for word <- Regex.split(~r/[^[:alnum:]]+/, String.downcase(Atom.to_string(node))),
          String.length(word) > 2,
          do: word

    Enum.sort_by(of_node ++ @words, &String.length/1, :desc)
  end
end
