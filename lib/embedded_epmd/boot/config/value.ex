defmodule EmbeddedEpmd.Boot.Config.Value do
  @moduledoc false
  # Reads a value of a setting, in the same way whatever source it comes from: the environment has text only, vm.args and
  # Erlang's configuration files have lists of characters for strings, and people write "4370", "Off" or `nil`.

  alias EmbeddedEpmd.Endpoints

  @type kind ::
          {:number, integer(), integer()}
          | {:range, integer(), integer(), longest :: pos_integer()}
          | {:one_of, [atom()]}
          | :boolean
          | :addresses
          | :networks
          | :reserved_names
          | :hand_over
          | :endpoints

  @yes ["true", "yes", "on", "1", "t", "y"]
  @no ["false", "no", "off", "0", "f", "n"]

  @doc """
  What a value says, or `:blank` if it says nothing: `nil`, `undefined`, text of blanks or commas, what is empty, or has
  only such items. It is not set then. Only of networks an empty list says something: none. An error has what came, and
  what is expected if that is more exact than the schema.
  """
  @spec read(kind(), term()) :: {:ok, term()} | :blank | {:error, got :: term()} | {:error, String.t(), got :: term()}
  def read(kind, value) do
    # Users may be numbers, a list of which is no string.
    value = if kind in [:reserved_names, :hand_over], do: value, else: strings(value)
    if blank?(value) and not (kind == :networks and is_list(value)), do: :blank, else: cast(kind, value)
  end

  defp blank?(value) when value in [nil, :undefined, ""] or value == %{}, do: true
  defp blank?(value) when is_binary(value), do: :string.lexemes(value, [?,, ?\s, ?\t, ?\r, ?\n]) == []
  defp blank?({key, value}) when is_atom(key), do: blank?(value)
  defp blank?(value) when is_list(value), do: :lists.all(&blank?/1, value)
  defp blank?(_value), do: false

  defp cast({:number, least, most}, value) do
    case if(is_binary(value), do: :string.to_integer(:string.trim(value)), else: {value, ""}) do
      {number, ""} when is_integer(number) and number >= least and number <= most -> {:ok, number}
      _ -> {:error, value}
    end
  end

  defp cast({:range, least, most, longest}, value) do
    case ends(value) do
      {first, last} when first >= least and last <= most and first <= last and last - first < longest ->
        {:ok, {first, last}}

      _ ->
        {:error, value}
    end
  end

  defp cast(:boolean, value) do
    word = word(value)

    cond do
      :lists.member(word, @yes) -> {:ok, true}
      :lists.member(word, @no) -> {:ok, false}
      true -> {:error, value}
    end
  end

  defp cast({:one_of, atoms}, value) do
    # Elixir knew this level by both names.
    word = with "warn" <- word(value), do: "warning"

    case :lists.filter(fn atom -> :erlang.atom_to_binary(atom) == word end, atoms) do
      [atom] -> {:ok, atom}
      [] -> {:error, value}
    end
  end

  defp cast(:addresses, value), do: items(value, &address/1)

  defp cast(:networks, value),
    do: items(value, fn network -> if is_binary(network), do: {:ok, network}, else: :error end)

  defp cast(:hand_over, value) do
    with {:error, _} <- cast(:boolean, strings(value)) do
      case is_list(value) and map(value, &trusted/1) do
        {:ok, lists} -> {:ok, lists}
        _ -> {:error, value}
      end
    end
  end

  defp cast(:reserved_names, value) when is_list(value), do: map(value, &reserved/1)

  defp cast(:endpoints, value), do: Endpoints.parse(value)

  defp cast(_kind, value), do: {:error, value}

  # `9100..9199`, as a term or as text.
  defp ends(%{__struct__: Range, first: first, last: last}), do: {first, last}
  defp ends({first, last}) when is_integer(first) and is_integer(last), do: {first, last}

  defp ends(value) when is_binary(value) do
    with [first, last] <- :string.split(value, ".."),
         {first, ""} when is_integer(first) <- :string.to_integer(:string.trim(first)),
         {last, ""} when is_integer(last) <- :string.to_integer(:string.trim(last)) do
      {first, last}
    end
  end

  defp ends(_value), do: :error

  defp word(value) when is_binary(value), do: :string.lowercase(:string.trim(value))
  defp word(value) when is_atom(value), do: word(:erlang.atom_to_binary(value))
  defp word(value) when is_integer(value), do: :erlang.integer_to_binary(value)
  defp word(_value), do: nil

  # Several values as a list, or as text with commas or blanks between them. Blank ones are left out.
  defp items(value, read) when is_binary(value), do: items(:string.lexemes(value, [?,, ?\s]), read)

  defp items(value, read) when is_list(value) do
    kept = :lists.filter(fn item -> not blank?(item) end, value)
    map(:lists.map(fn item -> if is_binary(item), do: :string.trim(item), else: item end, kept), read)
  end

  defp items(value, _read), do: {:error, value}

  defp address(address) do
    parsed =
      cond do
        is_tuple(address) -> if :inet.ntoa(address) != {:error, :einval}, do: {:ok, address}, else: :error
        is_binary(address) -> :inet.parse_strict_address(:unicode.characters_to_list(address))
        true -> :error
      end

    with {:ok, ip} <- parsed, do: {:ok, :erlang.list_to_binary(:inet.ntoa(ip))}
  end

  ## Users and groups: names, and numbers as text

  defp trusted({key, names}) when key in [:users, :groups] do
    # A list of numbers is no string here.
    names = if is_list(names), do: names, else: [names]

    with {:ok, names} <- map(:lists.filter(fn name -> not blank?(name) end, names), &user/1), do: {:ok, {key, names}}
  end

  defp trusted(_entry), do: :error

  # A name without a user is an error, also one that is blank: to leave it out would open it.
  defp reserved({name, users}) when is_list(name) do
    # Where the name is a list of characters, a list for the user is one as well.
    case {strings(name), strings(users)} do
      {name, user} when is_binary(name) and is_binary(user) -> reserved({name, user})
      {name, _} when is_binary(name) -> reserved({name, users})
      _ -> :error
    end
  end

  defp reserved({name, [_ | _] = users}) when is_binary(name),
    do: with({:ok, users} <- map(users, &user/1), do: {:ok, {name, users}})

  defp reserved({name, user}) when is_binary(name), do: with({:ok, user} <- user(user), do: {:ok, {name, [user]}})
  defp reserved(_entry), do: :error

  defp user(number) when is_integer(number) and number >= 0, do: {:ok, :erlang.integer_to_binary(number)}

  defp user(name) do
    name = strings(name)
    if is_binary(name) and not blank?(name), do: {:ok, :string.trim(name)}, else: :error
  end

  ## Strings

  # What `-embedded_epmd` of vm.args and an Erlang configuration have for a string is a list of characters.
  defp strings([_ | _] = value) do
    if :io_lib.printable_unicode_list(value),
      do: :unicode.characters_to_binary(value),
      else: :lists.map(&strings/1, value)
  end

  defp strings(value) when is_tuple(value),
    do: :erlang.list_to_tuple(:lists.map(&strings/1, :erlang.tuple_to_list(value)))

  defp strings(value) when is_map(value), do: :maps.from_list(:lists.map(&strings/1, :maps.to_list(value)))
  defp strings(value), do: value

  # All of them read, or the first that cannot be.
  defp map(values, read), do: map(values, read, [])

  defp map([], _read, done), do: {:ok, :lists.reverse(done)}

  defp map([value | values], read, done) do
    case read.(value) do
      {:ok, result} -> map(values, read, [result | done])
      _ -> {:error, value}
    end
  end
end
