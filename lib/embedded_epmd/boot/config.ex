defmodule EmbeddedEpmd.Boot.Config do
  @moduledoc false
  # Every source of settings to one validated map.
  #
  # A setting comes from, in this order: the environment (what the C daemon reads, and what `erl` makes of it), the
  # options of the child, the application environment, the default. A blank value is none: the next source counts.

  alias EmbeddedEpmd.Boot.Config.{Nearest, Schema, Value}
  alias EmbeddedEpmd.Boot.{Environment, HostAddress}

  # These two are read when the library is compiled.
  @compile_time [:base_url, :build]
  # Those of OTP's daemon and its client.
  @variables [
    "ERL_EPMD_PORT",
    "ERL_EPMD_ADDRESS",
    "ERL_EPMD_RELAXED_COMMAND_CHECK",
    "ERL_EPMD_DIST_HIGH",
    "ERL_EPMD_DIST_LOW"
  ]

  @doc "The settings, or an `ArgumentError` that names the setting, what is expected and what came."
  @spec load(keyword()) :: EmbeddedEpmd.Native.config()
  def load(options \\ []) do
    known!(options)
    _ = load_application()

    settings = closed(:maps.from_list(:lists.map(fn key -> {key, get(key, options)} end, Schema.names())), options)
    {hand_over, users, groups} = trusted(settings.hand_over)

    :maps.merge(settings, %{
      hand_over: hand_over,
      trusted_users: users,
      trusted_groups: groups,
      inet6: Environment.family() == :inet6,
      port_chosen: given(:port, options) != :none,
      addresses_chosen: settings.local == true or given(:addresses, options) != :none
    })
  end

  # With `local: true` the EPMD listens at loopbacks only. Addresses may choose among them, and not open it.
  defp closed(%{local: true, addresses: addresses} = settings, options) do
    case :lists.filter(fn address -> not HostAddress.loopback?(HostAddress.parse(address)) end, addresses) do
      [] when addresses == [] ->
        :maps.merge(settings, %{addresses: HostAddress.loopbacks()})

      [] ->
        settings

      [open | _] ->
        :erlang.error(
          ArgumentError.exception(
            "embedded_epmd: " <>
              source(:local, options) <>
              " closes the EPMD to other hosts, and " <>
              source(:addresses, options) <> " opens it to them at " <> open <> ": remove one of the two"
          )
        )
    end
  end

  defp closed(settings, _options), do: settings

  # Whether there is a handover, and with whose processes beside those of this user.
  defp trusted(value) when is_boolean(value), do: {value, [], []}
  defp trusted(lists), do: {true, :proplists.get_value(:users, lists, []), :proplists.get_value(:groups, lists, [])}

  # A release has loaded it before it boots. Elsewhere its environment, from -config or a flag, comes with the loading.
  defp load_application, do: _ = :application.load(:embedded_epmd)

  @doc "One setting, as it was read."
  @spec get(atom(), keyword()) :: term()
  def get(key, options) do
    case given(key, options) do
      :none -> Schema.setting(key).default
      {_source, value} -> value
    end
  end

  @doc "Where a setting comes from, as its user would call it."
  @spec source(atom(), keyword()) :: String.t()
  def source(key, options) do
    case given(key, options) do
      {source, _value} -> source
      :none -> "the default of " <> text(key)
    end
  end

  @doc "The level, or an `ArgumentError` that says what is expected."
  @spec log_level!(term()) :: :none | :logger.level()
  def log_level!(level) do
    setting = Schema.setting(:log_level)

    case Value.read(setting.kind, level) do
      {:ok, level} -> level
      _ -> fail!("the log level", setting.expected, level)
    end
  end

  @doc "For how long another level holds, in milliseconds, or an `ArgumentError` that says what is expected."
  @spec log_time!(term()) :: pos_integer()
  def log_time!([]), do: 60_000
  def log_time!(for: time) when is_integer(time) and time in 1..86_400_000, do: time
  def log_time!(other), do: fail!("the time of a log level", "[for: MILLISECONDS], from 1 to 86400000", other)

  @doc """
  What is set and ignored, as sentences: keys of the application environment and variables that nobody knows, most likely
  misspelt.
  """
  @spec ignored() :: [String.t()]
  def ignored do
    _ = load_application()
    keys = :lists.map(fn {key, _} -> key end, :application.get_all_env(:embedded_epmd))
    ignored(keys) ++ unknown(:lists.sort(variables()), @variables, "")
  end

  @doc "Those of these keys of the application environment that are ignored, as sentences."
  @spec ignored([atom()]) :: [String.t()]
  def ignored(keys), do: unknown(:lists.sort(keys), Schema.names() ++ @compile_time, "config :embedded_epmd, ")

  defp unknown(given, known, what) do
    :lists.map(
      fn one -> what <> name(one) <> " is ignored, since it is not a setting: " <> Nearest.hint(one, known) end,
      :lists.filter(fn one -> not :lists.member(one, known) end, given)
    )
  end

  defp name(name) when is_atom(name), do: :erlang.atom_to_binary(name)
  defp name(name), do: name

  defp variables do
    :lists.filtermap(
      fn variable ->
        case :string.split(variable, ~c"=") do
          [~c"ERL_EPMD_" ++ _ = name, _] -> {true, :unicode.characters_to_binary(name)}
          _ -> false
        end
      end,
      :os.getenv()
    )
  end

  defp known!(options) do
    if not :erlang.is_list(options) or not :lists.all(fn option -> match?({_, _}, option) end, options),
      do: fail!("EmbeddedEpmd", "given a keyword list of options", options)

    names = Schema.names()

    case :lists.filter(fn {key, _} -> not :lists.member(key, names) end, options) do
      [] -> :ok
      [{key, _} | _] -> fail!(text(key), "one of the options " <> text(names) <> ": " <> Nearest.hint(key, names), key)
    end
  end

  # The first source that says something.
  defp given(key, options), do: given(Schema.setting(key), [&variable/3, &option/3, &application/3], key, options)

  defp given(_setting, [], _key, _options), do: :none

  defp given(setting, [source | sources], key, options) do
    with {name, value} <- source.(setting, key, options),
         answer when answer != :blank <- Value.read(setting.kind, value) do
      case answer do
        {:ok, value} -> {name, value}
        {:error, got} -> fail!(name, setting.expected, got)
        {:error, expected, got} -> fail!(name, expected, got)
      end
    else
      _ -> given(setting, sources, key, options)
    end
  end

  # `erl` turns ERL_EPMD_PORT into -epmd_port, which is what OTP's own client reads.
  defp variable(%{variable: variable}, key, _options) do
    case if(key == :port, do: :init.get_argument(:epmd_port), else: :error) do
      {:ok, [[value | _] | _]} -> {variable <> " (-epmd_port)", :unicode.characters_to_binary(value)}
      _ -> {variable, :unicode.characters_to_binary(:os.getenv(:erlang.binary_to_list(variable), ~c""))}
    end
  end

  defp variable(_setting, _key, _options), do: :none

  defp option(_setting, key, options) do
    case :lists.keyfind(key, 1, options) do
      {^key, value} -> {"the option " <> text(key), value}
      false -> :none
    end
  end

  defp application(_setting, key, _options) do
    case :application.get_env(:embedded_epmd, key) do
      {:ok, value} -> {"config :embedded_epmd, " <> text(key), value}
      :undefined -> :none
    end
  end

  @spec fail!(String.t(), String.t(), term()) :: no_return()
  defp fail!(source, expected, got) do
    :erlang.error(
      ArgumentError.exception("embedded_epmd: " <> source <> " must be " <> expected <> ", got: " <> text(got))
    )
  end

  defp text(term) when is_atom(term), do: :erlang.atom_to_binary(term)
  defp text(term) when is_binary(term), do: "\"" <> term <> "\""
  defp text(term), do: :unicode.characters_to_binary(:io_lib.format(~c"~tp", [term]))
end
