defmodule EmbeddedEpmd.Doctor.VmArgs do
  @moduledoc false
  # The flags of a VM, of a release's vm.args and of its remote.vm.args that concern EPMD: which are needed, which value of
  # a repeated flag counts, and which contradict each other. The installer and both doctors read flags here, as OTP does.

  alias EmbeddedEpmd.Doctor.VmArgs.Words

  @module "Elixir.EmbeddedEpmd.Discovery"
  @no_daemon {"-start_epmd", "false"}
  @discovery {"-epmd_module", @module}
  @local {"-embedded_epmd", ["local", "true"]}
  @tcp "inet_tcp"
  # How deep files may include each other. One that includes itself would never end.
  @deepest 8

  @typedoc "A flag with the words up to the next flag, as `init` has them. An included file that was not read is one, too."
  @type flag :: {name :: String.t(), values :: [String.t()]}
  @type required :: {name :: String.t(), value :: String.t()}
  @type kind :: :vm_args | :remote_vm_args
  @typedoc "Reads an included file."
  @type read :: (Path.t() -> {:ok, String.t()} | {:error, term()})

  @doc "The flags that a file needs. If the kernel parameter names the module, -epmd_module is not among them."
  @spec required(kind(), parameter? :: boolean()) :: [required()]
  def required(:vm_args, false), do: [@no_daemon, @discovery]
  def required(_kind, _parameter?), do: [@no_daemon]

  ## Reading

  @doc "The flags of a file and of those that it includes."
  @spec flags(String.t(), read()) :: [flag()]
  def flags(text, read \\ &File.read/1), do: text |> words(read, @deepest) |> of_words()

  defp words(text, read, deepest), do: text |> Words.of_file() |> follow(read, deepest)

  defp follow(["-args_file", path | rest], read, deepest) when deepest > 0 do
    case read.(path) do
      {:ok, text} -> words(text, read, deepest - 1) ++ follow(rest, read, deepest)
      {:error, _} -> ["-args_file", path | follow(rest, read, deepest)]
    end
  end

  defp follow([word | rest], read, deepest), do: [word | follow(rest, read, deepest)]
  defp follow([], _read, _deepest), do: []

  @doc "The flags of a command line."
  @spec of_words([String.t()]) :: [flag()]
  def of_words(words) do
    words
    |> Enum.take_while(&(&1 != "-extra"))
    |> Enum.chunk_while(
      nil,
      fn
        <<sign, _, _::binary>> = name, flag when sign in [?-, ?+] -> emit(flag, {name, []})
        _word, nil -> {:cont, nil}
        word, {name, values} -> {:cont, {name, [word | values]}}
      end,
      fn flag -> emit(flag, nil) end
    )
  end

  defp emit(nil, next), do: {:cont, next}
  defp emit({name, values}, next), do: {:cont, {name, Enum.reverse(values)}, next}

  @doc "The flags that `erl` takes from the environment, by the names and values of its variables."
  @spec of_environment(Enumerable.t()) :: [flag()]
  def of_environment(variables) do
    for {name, value} <- variables,
        name =~ ~r/^ERL_(A|Z|OTP\d+_)?FLAGS$/,
        flag <- of_words(Words.of_variable(value)),
        do: flag
  end

  @doc "The flags that a release's env.sh sets for `erl`, as far as they stand there literally."
  @spec of_script(String.t()) :: [flag()]
  def of_script(text) do
    lines = Regex.scan(~r/^\s*(?:export\s+)?(ERL_\w*FLAGS)=(.*)$/m, text, capture: :all_but_first)
    # The shell removes one pair of quotes.
    of_environment(for [name, value] <- lines, do: {name, value |> Words.of_variable() |> Enum.join(" ")})
  end

  @doc "The value of a flag that counts: the last one for -start_epmd, as in `erl`, the first one for the others."
  @spec value([flag()], String.t()) :: String.t() | nil
  def value(flags, name) do
    values = for {^name, values} <- flags, do: List.first(values, "")
    if name == "-start_epmd", do: List.last(values), else: List.first(values)
  end

  @doc "The value of a parameter of -kernel. OTP takes the first one."
  @spec parameter([flag()], String.t()) :: String.t() | nil
  def parameter(flags, name),
    do: with(value when value != nil <- of_application(flags, "-kernel", name), do: String.trim(value, "'"))

  @doc "The value of one of our settings, which -embedded_epmd gives."
  @spec setting([flag()], String.t()) :: String.t() | nil
  def setting(flags, name), do: of_application(flags, "-embedded_epmd", name)

  defp of_application(flags, application, name) do
    List.first(for {^application, values} <- flags, [^name, value] <- Enum.chunk_every(values, 2), do: value)
  end

  @doc "The included files that were not read."
  @spec unread([flag()]) :: [Path.t()]
  def unread(flags), do: for({"-args_file", [path | _]} <- flags, do: path)

  @doc "A flag as it is written into a file."
  @spec line(flag() | required()) :: String.t()
  def line({name, values}), do: Enum.map_join([name | List.wrap(values)], " ", &Words.quoted/1)

  ## Judging

  @doc "The required flags that are missing or have another value."
  @spec missing([flag()], [required()]) :: [required()]
  def missing(flags, required), do: Enum.filter(required, fn {name, value} -> value(flags, name) != value end)

  @doc "The flag that closes the node to other hosts, unless it is there; as an error what contradicts it."
  @spec local([flag()]) :: [flag()] | {:error, String.t()}
  def local(flags) do
    case setting(flags, "local") do
      nil -> [@local]
      "true" -> []
      other -> {:error, "has -embedded_epmd local #{other}, which --local contradicts"}
    end
  end

  @doc "Whether the flags name the discovery module, by flag or by kernel parameter."
  @spec discovery?([flag()]) :: boolean()
  def discovery?(flags), do: @module in [value(flags, "-epmd_module"), parameter(flags, "epmd_module")]

  @doc """
  The flags of the transport that a node has and its clients lack, or the other way round: they must have the same, and
  with TLS both need its options, which may differ.
  """
  @spec transport_lacks(of :: [flag()], compared_to :: [flag()]) :: [flag()]
  def transport_lacks(of, compared_to) do
    case {protocol(of), protocol(compared_to)} do
      {same, same} -> options_lack(of, compared_to, same)
      {_, @tcp} -> []
      # What names another one contradicts.
      {_, protocol} when protocol != @tcp -> lacks_protocol(of, compared_to, protocol)
    end
  end

  defp lacks_protocol(of, compared_to, protocol) do
    if value(of, "-proto_dist") == nil,
      do: [{"-proto_dist", [protocol]} | options_lack(of, compared_to, protocol)],
      else: []
  end

  # `-proto_dist inet_epmd` names its carrier with a flag of its own.
  defp options_lack(of, compared_to, protocol) do
    carriers = for flags <- [of, compared_to], do: if(protocol == "inet_epmd", do: value(flags, "-inet_epmd"))
    carrier = with([nil, carrier] when carrier != nil <- carriers, do: [{"-inet_epmd", [carrier]}], else: (_ -> []))
    tls? = String.ends_with?(protocol, "_tls") or "tls_socket" in carriers
    carrier ++ if(tls? and tls_options(of) == [], do: tls_options(compared_to), else: [])
  end

  @doc "The protocols of the node and of its clients, if both name one and they differ."
  @spec transports_differ([flag()], [flag()]) :: {String.t(), String.t()} | nil
  def transports_differ(node, clients) do
    case {value(node, "-proto_dist"), value(clients, "-proto_dist")} do
      {of_node, of_clients} when nil in [of_node, of_clients] or of_node == of_clients -> nil
      different -> different
    end
  end

  defp protocol(flags), do: value(flags, "-proto_dist") || @tcp
  defp tls_options(flags), do: Enum.filter(flags, fn {name, _} -> name in ["-ssl_dist_optfile", "-ssl_dist_opt"] end)

  @doc "What in a file contradicts the flags that it needs, as the predicate of a sentence about the file; `nil` if nothing."
  @spec contradiction([flag()], kind(), parameter? :: boolean()) :: String.t() | nil
  def contradiction(flags, kind, parameter?) do
    module = value(flags, "-epmd_module")
    parameter = parameter(flags, "epmd_module")
    fixed = value(flags, "-erl_epmd_port") || parameter(flags, "erl_epmd_node_listen_port")

    cond do
      value(flags, "-start_epmd") not in [nil, "false"] ->
        "has -start_epmd #{value(flags, "-start_epmd")}, which starts OTP's daemon"

      no_epmd?(flags) ->
        "has -no_epmd, with which OTP asks no discovery module: a VM with it does not become a node"

      value(flags, "-erl_epmd_port") ->
        "has -erl_epmd_port #{fixed}: with a fixed port a node needs no EPMD, neither OTP's nor this one"

      fixed ->
        "has erl_epmd_node_listen_port #{fixed}: with a fixed port a node needs no EPMD, neither OTP's nor this one"

      module not in [nil, @module] ->
        "has -epmd_module #{module}, another discovery module" <>
          if({"-epmd_module", [@module]} in flags, do: "; of two, OTP takes the first", else: "")

      parameter not in [nil, @module] ->
        "has -kernel epmd_module #{parameter}, another discovery module"

      module && kind == :remote_vm_args ->
        "has -epmd_module #{module}, which is not for short-lived clients"

      module && (parameter || parameter?) ->
        "has -epmd_module #{module} beside the kernel parameter epmd_module: with both a VM of OTP 27.2 or later does " <>
          "not start"

      true ->
        nil
    end
  end

  @doc "Whether the flags keep OTP from asking a discovery module."
  @spec no_epmd?([flag()]) :: boolean()
  def no_epmd?(flags), do: value(flags, "-no_epmd") != nil
end
