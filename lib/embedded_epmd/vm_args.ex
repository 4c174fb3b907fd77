defmodule EmbeddedEpmd.VmArgs do
  @moduledoc false
  # The flags of a release's vm.args and remote.vm.args that concern EPMD: which are needed, which value of a repeated
  # flag counts, and which contradict each other. Pure.

  @module "Elixir.EmbeddedEpmd.Discovery"
  @no_daemon {"-start_epmd", "false"}
  @discovery {"-epmd_module", @module}
  # The last two are parameters of -kernel.
  @known ~w(-start_epmd -epmd_module -erl_epmd_port -dist_listen erl_epmd_node_listen_port epmd_module)

  @type flag :: {name :: String.t(), value :: String.t()}
  @type kind :: :vm_args | :remote_vm_args

  @doc "The flags that a file needs. If the kernel parameter names the module, -epmd_module is not among them."
  @spec required(kind(), parameter? :: boolean()) :: [flag()]
  def required(:vm_args, false), do: [@no_daemon, @discovery]
  def required(_kind, _parameter?), do: [@no_daemon]

  @doc "The flags of a file that concern EPMD, without those in comments."
  @spec flags(String.t()) :: [flag()]
  def flags(text) do
    words =
      for line <- String.split(text, "\n"),
          word <- line |> String.split() |> Enum.take_while(&(not String.starts_with?(&1, "#"))),
          do: String.trim(word, "'")

    for {name, value} <- Enum.zip(words, Enum.drop(words, 1) ++ [""]), name in @known, do: {name, value}
  end

  @doc "The value of a flag that counts: the last one for -start_epmd, as in `erl`, the first one for the others."
  @spec value([flag()], String.t()) :: String.t() | nil
  def value(flags, name) do
    values = for {^name, value} <- flags, do: value
    if name == "-start_epmd", do: List.last(values), else: List.first(values)
  end

  @doc "The required flags that are missing or have another value."
  @spec missing([flag()], [flag()]) :: [flag()]
  def missing(flags, required), do: Enum.filter(required, fn {name, value} -> value(flags, name) != value end)

  @doc "Whether the flags name the discovery module, by flag or by kernel parameter."
  @spec discovery?([flag()]) :: boolean()
  def discovery?(flags), do: @module in [value(flags, "-epmd_module"), value(flags, "epmd_module")]

  @doc "What in a file contradicts the flags that it needs, as the predicate of a sentence about the file; `nil` if nothing."
  @spec contradiction([flag()], kind(), parameter? :: boolean()) :: String.t() | nil
  def contradiction(flags, kind, parameter?) do
    module = value(flags, "-epmd_module")
    parameter = value(flags, "epmd_module")
    fixed = value(flags, "-erl_epmd_port") || value(flags, "erl_epmd_node_listen_port")

    cond do
      value(flags, "-start_epmd") not in [nil, "false"] ->
        "has -start_epmd #{value(flags, "-start_epmd")}, which starts OTP's daemon"

      value(flags, "-erl_epmd_port") ->
        "has -erl_epmd_port #{fixed}: with a fixed port a node needs no EPMD, neither OTP's nor this one"

      fixed ->
        "has erl_epmd_node_listen_port #{fixed}: with a fixed port a node needs no EPMD, neither OTP's nor this one"

      module not in [nil, @module] ->
        "has -epmd_module #{module}, another discovery module" <>
          if(@discovery in flags, do: "; of two, OTP takes the first", else: "")

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
end
