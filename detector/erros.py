"""O único erro que a pessoa precisa ler."""


class ErroClaro(Exception):
    """Erro que a pessoa pode resolver: uma frase diz o que houve e o que fazer."""

    def _render_traceback_(self) -> list[str]:
        """O que o IPython mostra no lugar da pilha de chamadas."""
        return [f"ERRO: {self}"]


def motivo(erro: OSError) -> str:
    """O que aconteceu com o disco ou com a rede, nas palavras do sistema."""
    return erro.strerror or str(erro) or type(erro).__name__
